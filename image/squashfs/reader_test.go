package squashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

func TestReaderEqualsSource(t *testing.T) {
	needs(t, "mksquashfs")
	dir := sourceTree(t)
	want := dirFacts(t, dir)
	for _, options := range []string{
		"-comp gzip",
		"-comp zstd",
		"-comp lz4",
		"-comp lz4 -Xhc -b 1M -no-fragments",
		"-comp xz -Xbcj x86 -Xdict-size 75%",
		"-comp xz -b 4K",
		"-comp lzo",
		"-comp lzo -b 1M",
		"-comp gzip -b 4K -always-use-fragments",
		"-comp gzip -b 1M -no-fragments",
		"-comp zstd -b 4K -no-fragments",
		"-comp zstd -b 1M -always-use-fragments",
		"-comp zstd -noI",
		"-comp zstd -noD",
		"-comp zstd -noF",
		"-noI -noD -noF -noX",
		"-comp zstd -no-exports -no-xattrs -no-duplicates",
		"-comp zstd -no-sparse -nopad",
	} {
		t.Run(options, func(t *testing.T) {
			img := mksquashfs(t, dir, strings.Fields(options)...)
			for _, o := range []squashfs.ReaderOptions{{}, {CacheBytes: 1, ReadAhead: true}} {
				r := openImage(t, img, o)
				compareFacts(t, want, readerFacts(t, r))
			}
		})
	}
}

func TestReaderRefusesLegacyLZMAWithCure(t *testing.T) {
	img := mksquashfs(t, t.TempDir(), "-comp", "lzma")
	f, err := os.Open(img)
	must(t, err)
	defer f.Close()
	_, err = squashfs.NewReader(f, 1<<12, squashfs.ReaderOptions{})
	var unsupported *squashfs.UnsupportedError
	if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "lzma") || !strings.Contains(unsupported.Hint(), "mksquashfs") {
		t.Errorf("got %v", err)
	}
}

func TestReaderDevices(t *testing.T) {
	img := mksquashfs(t, t.TempDir(),
		"-p", "null c 666 0 0 1 3", "-p", "sda b 660 0 6 8 1", "-p", "big c 600 1234 70000 4000 900000")
	r := openImage(t, img, squashfs.ReaderOptions{})
	got := readerFacts(t, r)
	for name, want := range map[string]facts{
		"/null": {Mode: unix.S_IFCHR | 0o666, Nlink: 1, Rdev: unix.Mkdev(1, 3)},
		"/sda":  {Mode: unix.S_IFBLK | 0o660, Nlink: 1, GID: 6, Rdev: unix.Mkdev(8, 1)},
		"/big":  {Mode: unix.S_IFCHR | 0o600, Nlink: 1, UID: 1234, GID: 70000, Rdev: unix.Mkdev(4000, 900000)},
	} {
		f := got[name]
		f.ModTime = 0
		if f.Mode != want.Mode || f.UID != want.UID || f.GID != want.GID || f.Rdev != want.Rdev || f.Nlink != want.Nlink {
			t.Errorf("%s is %+v, want %+v", name, f, want)
		}
	}
}

func TestReaderXattrs(t *testing.T) {
	dir := t.TempDir()
	// On images value 2 is stored once and referred to: mksquashfs keeps
	// values that several inodes share out of line.
	big := strings.Repeat("value", 300)
	for i := range 40 {
		p := filepath.Join(dir, fmt.Sprint(i))
		must(t, os.WriteFile(p, []byte("x"), 0o644))
		for name, value := range map[string]string{"user.n": fmt.Sprint(i), "user.big": big, "user.empty": ""} {
			if err := unix.Setxattr(p, name, []byte(value), 0); err != nil {
				lacks(t, fmt.Sprintf("user.* attributes on %s (%v)", dir, err))
			}
		}
	}
	must(t, os.Symlink("x", filepath.Join(dir, "link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, unix.Setxattr(dir, "user.root", []byte("r"), 0))
	if os.Geteuid() == 0 {
		must(t, unix.Lsetxattr(filepath.Join(dir, "link"), "trusted.t", []byte("t"), 0))
		must(t, unix.Lsetxattr(filepath.Join(dir, "fifo"), "trusted.t", []byte("t"), 0))
		must(t, unix.Setxattr(filepath.Join(dir, "0"), "security.s", []byte{0, 1, 2}, 0))
	}
	for _, options := range []string{"-comp gzip", "-noX -noI"} {
		img := mksquashfs(t, dir, strings.Fields(options)...)
		compareFacts(t, dirFacts(t, dir), readerFacts(t, openImage(t, img, squashfs.ReaderOptions{})))
	}
}

func TestReaderLargeDirectory(t *testing.T) {
	needs(t, "mksquashfs")
	dir := t.TempDir()
	const n = 70000
	for i := range n {
		must(t, os.Symlink("x", filepath.Join(dir, fmt.Sprintf("entry-%06d", i*7))))
	}
	r := openImage(t, mksquashfs(t, dir, fast...), squashfs.ReaderOptions{})
	root, err := r.Inode(r.Root())
	must(t, err)

	var names []string
	for offset, done := 0, false; !done; {
		done = true
		must(t, r.ReadDir(root, offset, func(d squashfs.Dirent, next int) bool {
			names, offset = append(names, d.Name), next
			done = len(names)%777 == 0 // stop and go on, at changing places of a run
			return !done
		}))
		done = !done
	}
	if len(names) != n {
		t.Fatalf("listed %d names, want %d", len(names), n)
	}
	for i, name := range names {
		if want := fmt.Sprintf("entry-%06d", i*7); name != want {
			t.Fatalf("entry %d is %s, want %s", i, name, want)
		}
		if i%97 != 0 {
			continue
		}
		d, err := r.Lookup(root, name)
		must(t, err)
		if d.Name != name {
			t.Errorf("looked up %s, found %s", name, d.Name)
		}
	}
	for _, name := range []string{"", "a", "entry-", "entry-000001", "entry-9999999", "zzz", strings.Repeat("x", 300), "\xff"} {
		if d, err := r.Lookup(root, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("looked up %q, found %v, %v", name, d, err)
		}
	}
}

func TestReaderExports(t *testing.T) {
	dir := sourceTree(t)
	r := openImage(t, mksquashfs(t, dir, fast...), squashfs.ReaderOptions{})
	for n := uint32(1); n <= r.Info().Inodes; n++ {
		ref, err := r.Exported(n)
		must(t, err)
		in, err := r.Inode(ref)
		must(t, err)
		if in.Number != n {
			t.Errorf("inode %d has number %d", n, in.Number)
		}
	}
	for _, n := range []uint32{0, r.Info().Inodes + 1, 1<<32 - 1} {
		if _, err := r.Exported(n); err == nil {
			t.Errorf("found inode %d", n)
		}
	}
	without := openImage(t, mksquashfs(t, dir, append(fast, "-no-exports")...), squashfs.ReaderOptions{})
	if _, err := without.Exported(1); err == nil || without.Info().Exportable {
		t.Error("found an inode without an export table")
	}
}

func TestReaderParents(t *testing.T) {
	r := openImage(t, mksquashfs(t, sourceTree(t), fast...), squashfs.ReaderOptions{})
	in, err := r.Inode(r.Root())
	must(t, err)
	if r.Parent(in) != in.Number {
		t.Errorf("parent of the root is %d, want %d", r.Parent(in), in.Number)
	}
	for _, name := range []string{"deep", "a", "b", "c"} {
		d, err := r.Lookup(in, name)
		must(t, err)
		child, err := r.Inode(d.Ref)
		must(t, err)
		if r.Parent(child) != in.Number {
			t.Errorf("parent of %s is %d, want %d", name, r.Parent(child), in.Number)
		}
		in = child
	}
}

func TestReaderFS(t *testing.T) {
	needs(t, "mksquashfs")
	dir := sourceTree(t)
	// TestFS opens and reads everything, and takes UTF-8 names only.
	for _, name := range []string{"fifo", "socket", "names"} {
		must(t, os.RemoveAll(filepath.Join(dir, name)))
	}
	r := openImage(t, mksquashfs(t, dir, fast...), squashfs.ReaderOptions{})
	if err := fstest.TestFS(r.FS(), "text/4096", "deep/a/b/c/d/e/f/g/h"); err != nil {
		t.Error(err)
	}
	if _, err := fs.Stat(r.FS(), "dangling/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("walked through a symbolic link: %v", err)
	}
	if target, err := fs.ReadLink(r.FS(), "dangling"); err != nil || target != "../no/such" {
		t.Errorf("dangling leads to %q, %v", target, err)
	}
}

// mixedContent has text, holes and what does not compress.
func mixedContent() []byte {
	rnd := rand.New(rand.NewPCG(3, 4))
	var content []byte
	for len(content) < 9<<20+1234 { // with 4 KiB blocks: several marks of the index
		content = append(content, words(rnd, 50000)...)
		content = append(content, make([]byte, 20000)...)
		content = append(content, noise(rnd, 10000)...)
	}
	return content
}

func TestReaderRandomAccess(t *testing.T) {
	content := mixedContent()
	for _, o := range []squashfs.WriterOptions{
		{Compression: squashfs.Gzip, Level: 1, BlockSize: 4 << 10},
		{Compression: squashfs.Zstd, Level: 1, BlockSize: 128 << 10},
	} {
		img := writeImage(t, o, func(w *squashfs.Writer) *squashfs.Node {
			return writeDirNode(map[string]*squashfs.Node{"f": writeFileNode(t, w, content)})
		})
		r, err := squashfs.NewReader(bytes.NewReader(img), int64(len(img)), squashfs.ReaderOptions{CacheBytes: 2 << 20, ReadAhead: true})
		must(t, err)
		randomAccess(t, r, content)
	}
}

func TestReaderRandomAccessToMksquashfsImages(t *testing.T) {
	needs(t, "mksquashfs")
	dir, content := t.TempDir(), mixedContent()
	must(t, os.WriteFile(filepath.Join(dir, "f"), content, 0o644))
	for _, options := range []string{"-b 4K -comp gzip -Xcompression-level 1", "-b 1M -comp lz4 -no-fragments"} {
		img := mksquashfs(t, dir, strings.Fields(options)...)
		randomAccess(t, openImage(t, img, squashfs.ReaderOptions{CacheBytes: 2 << 20, ReadAhead: true}), content)
	}
}

// randomAccess reads pieces of the file f from several goroutines.
func randomAccess(t *testing.T, r *squashfs.Reader, content []byte) {
	t.Helper()
	root, err := r.Inode(r.Root())
	must(t, err)
	d, err := r.Lookup(root, "f")
	must(t, err)
	in, err := r.Inode(d.Ref)
	must(t, err)
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			rnd := rand.New(rand.NewPCG(5, uint64(g)))
			p := make([]byte, 3<<20)
			off := 0
			for i := range 300 {
				size := rnd.IntN(1 << rnd.IntN(21))
				switch i / 10 % 3 {
				case 0: // anywhere
					off = rnd.IntN(len(content) + 100)
				case 1: // on pages, as the kernel
					off, size = rnd.IntN(len(content))&^4095, size&^4095
				} // else on from the last
				if !readPiece(t, r, in, content, p[:size], off) {
					return
				}
				off += size
			}
		})
	}
	wait.Wait()
}

// readPiece reads and compares with the content.
func readPiece(t *testing.T, r *squashfs.Reader, in *squashfs.Inode, content, p []byte, off int) bool {
	t.Helper()
	n, err := r.ReadAt(in, p, int64(off))
	end := off + len(p)
	want := content[min(off, len(content)):min(end, len(content))]
	if string(p[:n]) != string(want) {
		t.Errorf("read %d bytes at %d: got %d other ones, %v", len(p), off, n, err)
		return false
	}
	if atEnd := end > len(content) || off >= len(content); atEnd != (err == io.EOF) {
		t.Errorf("read %d bytes at %d of %d: %v", len(p), off, len(content), err)
		return false
	}
	return true
}

func TestReaderMisuse(t *testing.T) {
	r := openImage(t, mksquashfs(t, sourceTree(t), fast...), squashfs.ReaderOptions{})
	root, err := r.Inode(r.Root())
	must(t, err)
	d, err := r.Lookup(root, "one")
	must(t, err)
	in, err := r.Inode(d.Ref)
	must(t, err)
	if _, err := r.ReadAt(root, make([]byte, 10), 0); err == nil {
		t.Error("read a directory's content")
	}
	if _, err := r.ReadAt(in, make([]byte, 10), -1); err == nil {
		t.Error("read before a file's start")
	}
	if _, err := r.Readlink(in); err == nil {
		t.Error("read a file's target")
	}
	if _, err := r.Lookup(in, "x"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("looked into a file: %v", err)
	}
	if err := r.ReadDir(in, 0, nil); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("listed a file: %v", err)
	}
	for _, offset := range []int{-1, 1, 17, 1 << 30, 1<<62 + 5, 12<<17 | 12, 20<<17 | 15} {
		seen := 0 // any result will do that is none of a panic or a hang
		_ = r.ReadDir(root, offset, func(squashfs.Dirent, int) bool { seen++; return seen < 1000 })
	}
}
