package inflate

import (
	"bytes"
	stdzlib "compress/zlib"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/sys/unix"
)

// goroot is the Go distribution's directory.
func goroot(b *testing.B) string {
	b.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// realBlocks compresses what lies in a tree of programs, data and texts, in
// blocks of 128 KiB, as mksquashfs would.
func realBlocks(b *testing.B) (blocks [][]byte, size int64) {
	b.Helper()
	const block, total = 128 << 10, 24 << 20
	var tar bytes.Buffer
	for _, root := range []string{"/usr/lib/python3", "/usr/share/perl", "/usr/bin", goroot(b) + "/src", goroot(b) + "/bin"} {
		limit := tar.Len() + total/5
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			if tar.Len() >= limit {
				return filepath.SkipAll
			}
			data, _ := os.ReadFile(path)
			tar.Write(data)
			return nil
		})
	}
	for p := tar.Bytes(); len(p) >= block; p = p[block:] {
		var z bytes.Buffer
		w, _ := zlib.NewWriterLevel(&z, 9)
		w.Write(p[:block])
		w.Close()
		if z.Len() < block {
			blocks = append(blocks, z.Bytes())
			size += block
		}
	}
	return blocks, size
}

// cpuRate reports megabytes per second of processor time, which a busy machine
// disturbs less than the clock.
func cpuRate(b *testing.B, size int64) func() {
	cpu := func() time.Duration {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := cpu()
	return func() {
		b.ReportMetric(float64(size)*float64(b.N)/1e6/(cpu()-start).Seconds(), "MB/cpu-s")
	}
}

func BenchmarkInflate(b *testing.B) {
	blocks, size := realBlocks(b)
	dst := make([]byte, 128<<10)
	b.Run("own", func(b *testing.B) {
		b.SetBytes(size)
		defer cpuRate(b, size)()
		for b.Loop() {
			for _, z := range blocks {
				if n, err := Zlib(dst, z); err != nil || n != len(dst) {
					b.Fatal(n, err)
				}
			}
		}
	})
	b.Run("klauspost", func(b *testing.B) {
		r, _ := zlib.NewReader(bytes.NewReader(blocks[0]))
		b.SetBytes(size)
		defer cpuRate(b, size)()
		for b.Loop() {
			for _, z := range blocks {
				r.(zlib.Resetter).Reset(bytes.NewReader(z), nil)
				if _, err := io.ReadFull(r, dst); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("standard", func(b *testing.B) {
		r, _ := stdzlib.NewReader(bytes.NewReader(blocks[0]))
		b.SetBytes(size)
		defer cpuRate(b, size)()
		for b.Loop() {
			for _, z := range blocks {
				r.(stdzlib.Resetter).Reset(bytes.NewReader(z), nil)
				if _, err := io.ReadFull(r, dst); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

func BenchmarkAdler32(b *testing.B) {
	p := make([]byte, 128<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		adler32(p)
	}
}
