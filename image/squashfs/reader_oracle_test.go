package squashfs_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// needs skips a test where a program is missing, or fails it where everything
// has to be there.
func needs(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		lacks(t, program)
	}
}

// needsRoot skips in strict mode too: the gate runs the tests as root as well as
// as users.
func needsRoot(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("needs root, %s", why)
	}
}

func lacks(t testing.TB, need string) {
	t.Helper()
	if os.Getenv("CORACLE_TEST_STRICT") == "1" {
		t.Fatalf("needs %s", need)
	}
	t.Skipf("needs %s", need)
}

// fast are options for tests to which the compressor does not matter.
var fast = []string{"-comp", "zstd", "-Xcompression-level", "1"}

// mksquashfs makes an image of a directory with the real thing.
func mksquashfs(t testing.TB, dir string, args ...string) string {
	t.Helper()
	needs(t, "mksquashfs")
	img := filepath.Join(t.TempDir(), "img.sqfs")
	args = append([]string{dir, img, "-noappend", "-no-progress", "-quiet", "-processors", "1"}, args...)
	if out, err := exec.Command("mksquashfs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs %v: %v\n%s", args, err, out)
	}
	return img
}

func openImage(t testing.TB, path string, o squashfs.ReaderOptions) *squashfs.Reader {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.NewReader(f, st.Size(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sourceTree makes a directory with a bit of everything a normal user can make.
func sourceTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	write := func(name string, data []byte, mode os.FileMode) {
		p := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, data, 0o600))
		must(t, os.Chmod(p, mode))
	}
	write("empty", nil, 0o644)
	write("one", []byte("1"), 0o600)
	write("setid", []byte("#!/bin/sh\n"), os.ModeSetuid|os.ModeSetgid|0o755)
	for _, size := range []int{4095, 4096, 4097, 131072, 131073, 300000, 1 << 20, 1<<20 + 5} {
		write(fmt.Sprintf("text/%d", size), words(rnd, size), 0o644)
		write(fmt.Sprintf("noise/%d", size), noise(rnd, size), 0o644)
	}
	for i := range 150 {
		write(fmt.Sprintf("small/%03d-%s", i, strings.Repeat("x", i%90)), words(rnd, i*37), 0o640)
	}
	write("deep/a/b/c/d/e/f/g/h", []byte("deep"), 0o400)
	write("names/"+strings.Repeat("n", 255), []byte("long"), 0o644)
	write("names/na\xc3\xafve \xff\x01\n", []byte("odd"), 0o644)
	must(t, os.Mkdir(filepath.Join(dir, "emptydir"), 0o700))
	must(t, os.Chmod(filepath.Join(dir, "emptydir"), os.ModeSticky|0o777))
	must(t, os.Symlink("../no/such", filepath.Join(dir, "dangling")))
	must(t, os.Symlink(strings.Repeat("l/", 1000), filepath.Join(dir, "longlink")))
	must(t, os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "uno")))
	must(t, os.Link(filepath.Join(dir, "text/300000"), filepath.Join(dir, "hard")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o620))
	must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o755, 0))
	sparse(t, filepath.Join(dir, "sparse"), 3<<20+123, map[int64]string{2<<20 + 7: "island"})
	sparse(t, filepath.Join(dir, "hole"), 1<<20, nil)
	sparse(t, filepath.Join(dir, "endhole"), 700001, map[int64]string{0: "start"})
	old := time.Unix(86400, 0)
	must(t, os.Chtimes(filepath.Join(dir, "text/4096"), old, old))
	return dir
}

func sparse(t testing.TB, path string, size int64, islands map[int64]string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	for off, s := range islands {
		_, err := f.WriteAt([]byte(s), off)
		must(t, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noise(rnd *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
	return p
}

// words makes text that compresses about as well as source code.
func words(rnd *rand.Rand, n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "%s %d ", strings.Repeat("abcdefgh"[:1+rnd.IntN(8)], 1+rnd.IntN(4)), rnd.IntN(5000))
	}
	return b.Bytes()[:n]
}

// facts describe a file so that two trees can be compared.
type facts struct {
	Mode, UID, GID, Nlink uint32
	Size                  uint64
	Rdev                  uint64 `json:",omitzero"`
	ModTime               int64
	Content               string           `json:",omitzero"` // digest, or target of a link
	Xattrs                []squashfs.Xattr `json:",omitzero"`
}

// readerFacts walks the whole image.
func readerFacts(t testing.TB, r *squashfs.Reader) map[string]facts {
	t.Helper()
	all := map[string]facts{}
	var walk func(name string, ref squashfs.Ref)
	walk = func(name string, ref squashfs.Ref) {
		in, err := r.Inode(ref)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f := facts{Mode: in.Mode, UID: in.UID, GID: in.GID, Nlink: in.Nlink, Size: in.Size,
			Rdev: in.Rdev, ModTime: int64(in.ModTime)}
		if f.Xattrs, err = r.Xattrs(in); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch {
		case in.IsRegular():
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(at{r, in}, 0, int64(in.Size))); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			f.Content = fmt.Sprintf("%x", h.Sum(nil))
		case in.IsSymlink():
			if f.Content, err = r.Readlink(in); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		case in.IsDir():
			f.Size = 0
		}
		all[name] = f
		if !in.IsDir() {
			return
		}
		err = r.ReadDir(in, 0, func(d squashfs.Dirent, _ int) bool {
			child, err := r.Inode(d.Ref)
			if err != nil {
				t.Fatalf("%s/%s: %v", name, d.Name, err)
			}
			if child.Number != d.Number || child.Mode&unix.S_IFMT != d.Mode {
				t.Errorf("%s/%s: entry says %d %o, inode %d %o", name, d.Name, d.Number, d.Mode, child.Number, child.Mode)
			}
			walk(name+"/"+d.Name, d.Ref)
			return true
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	walk("", r.Root())
	return all
}

// at reads an inode as an io.ReaderAt.
type at struct {
	r  *squashfs.Reader
	in *squashfs.Inode
}

func (a at) ReadAt(p []byte, off int64) (int, error) { return a.r.ReadAt(a.in, p, off) }

// dirFacts walks a directory of the host.
func dirFacts(t testing.TB, dir string) map[string]facts {
	t.Helper()
	all := map[string]facts{}
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		f := facts{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink),
			Size: uint64(st.Size), ModTime: st.Mtim.Sec, Xattrs: hostXattrs(t, path)}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			h := sha256.New()
			in, err := os.Open(path)
			if err != nil {
				return err
			}
			defer in.Close()
			if _, err := io.Copy(h, in); err != nil {
				return err
			}
			f.Content = fmt.Sprintf("%x", h.Sum(nil))
		case unix.S_IFLNK:
			if f.Content, err = os.Readlink(path); err != nil {
				return err
			}
		case unix.S_IFDIR:
			f.Size = 0
		case unix.S_IFCHR, unix.S_IFBLK:
			f.Rdev = st.Rdev
		}
		all[strings.TrimPrefix(path, dir)] = f
		return nil
	}))
	return all
}

func hostXattrs(t testing.TB, path string) []squashfs.Xattr {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	must(t, err)
	var list []squashfs.Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "system.") {
			continue
		}
		value := make([]byte, 64<<10)
		m, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		list = append(list, squashfs.Xattr{Name: name, Value: value[:m]})
	}
	return list
}

func compareFacts(t testing.TB, want, got map[string]facts) {
	t.Helper()
	for _, m := range []map[string]facts{want, got} {
		for name, f := range m {
			slices.SortFunc(f.Xattrs, func(a, b squashfs.Xattr) int { return strings.Compare(a.Name, b.Name) })
			m[name] = f
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		if len(diff) > 4000 {
			diff = diff[:4000] + "…"
		}
		t.Errorf("trees differ (-source +image):\n%s", diff)
	}
}
