package squashfs_test

import (
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

// benchmarkImage is an image of the Go distribution's sources: texts and a few programs.
func benchmarkImage(b *testing.B, args ...string) (*squashfs.Reader, []*squashfs.Inode) {
	b.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	r := openImage(b, mksquashfs(b, filepath.Join(strings.TrimSpace(string(root)), "src", "cmd"), args...), squashfs.ReaderOptions{ReadAhead: true})
	var files []*squashfs.Inode
	err = fs.WalkDir(r.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			files = append(files, info.Sys().(*squashfs.Inode))
		}
		return err
	})
	must(b, err)
	return r, files
}

// BenchmarkReadAll reads every file in pieces of 128 KiB, as the kernel asks for them.
func BenchmarkReadAll(b *testing.B) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"gzip", []string{"-comp", "gzip", "-Xcompression-level", "6"}},
		{"zstd", []string{"-comp", "zstd", "-Xcompression-level", "3"}},
		{"lz4", []string{"-comp", "lz4"}},
	} {
		r, files := benchmarkImage(b, c.args...)
		for _, readers := range []int{1, 2} {
			b.Run(c.name+"/readers="+string(rune('0'+readers)), func(b *testing.B) {
				b.ReportAllocs()
				var total int64
				for b.Loop() {
					total = readFiles(b, r, files, readers)
				}
				b.SetBytes(total)
			})
		}
	}
}

func readFiles(b *testing.B, r *squashfs.Reader, files []*squashfs.Inode, readers int) int64 {
	var next, total atomic.Int64
	var wait sync.WaitGroup
	for range readers {
		wait.Go(func() {
			buf := make([]byte, 128<<10)
			for {
				i := int(next.Add(1) - 1)
				if i >= len(files) {
					return
				}
				for off := int64(0); off < int64(files[i].Size); {
					n, err := r.ReadAt(files[i], buf, off)
					if n == 0 {
						b.Error(err)
						return
					}
					off += int64(n)
				}
				total.Add(int64(files[i].Size))
			}
		})
	}
	wait.Wait()
	return total.Load()
}

// BenchmarkWalk looks up every entry of a tree.
func BenchmarkWalk(b *testing.B) {
	r, _ := benchmarkImage(b, "-comp", "zstd", "-Xcompression-level", "1")
	b.ReportAllocs()
	var entries int
	var walk func(in *squashfs.Inode)
	walk = func(dir *squashfs.Inode) {
		must(b, r.ReadDir(dir, 0, func(d squashfs.Dirent, _ int) bool {
			entries++
			e, err := r.Lookup(dir, d.Name)
			must(b, err)
			in, err := r.Inode(e.Ref)
			must(b, err)
			if in.IsDir() {
				walk(in)
			}
			return true
		}))
	}
	var before, after unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &before))
	for b.Loop() {
		root, err := r.Inode(r.Root())
		must(b, err)
		walk(root)
	}
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &after))
	b.ReportMetric(float64(after.Utime.Nano()-before.Utime.Nano())/float64(entries), "cpu-ns/entry")
}
