package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// sourceDir makes a directory with all that a normal user can make.
func sourceDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "source")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, content string, mode os.FileMode) {
		t.Helper()
		must(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		must(os.Chmod(filepath.Join(dir, name), mode))
	}
	for _, d := range []string{"", "etc", "etc/empty", "many", "deep/er/and/deeper", "né\xff"} {
		must(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	write("etc/passwd", "root:x:0:0", 0o644)
	write("etc/empty/file", "", 0o600)
	write("script", "#!/bin/sh", 0o755)
	write("big", random(3<<20+17), 0o640)
	write("deep/er/and/deeper/x", "x", 0o644)
	write("né\xff/y", "y", 0o644)
	for i := range 300 {
		write(fmt.Sprintf("many/%03d", i), strings.Repeat(fmt.Sprint(i), i*7), 0o644)
	}
	must(os.Symlink("/etc/passwd", filepath.Join(dir, "absolute")))
	must(os.Symlink("../../../../outside", filepath.Join(dir, "etc/escaping")))
	must(os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must(os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "etc/hard")))
	must(os.Link(filepath.Join(dir, "dangling"), filepath.Join(dir, "zdangling")))
	must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(os.Chmod(filepath.Join(dir, "pipe"), 0o622))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(t, dir), Net: "unix"})
	must(err)
	listener.SetUnlinkOnClose(false)
	listener.Close()
	hole, err := os.Create(filepath.Join(dir, "sparse"))
	must(err)
	_, err = hole.WriteAt([]byte("end"), 5<<20)
	must(err)
	must(hole.Truncate(8 << 20))
	must(hole.Close())
	_ = unix.Setxattr(filepath.Join(dir, "script"), "user.note", []byte("a\x00b"), 0) // where the filesystem can
	_ = unix.Setxattr(filepath.Join(dir, "etc"), "user.dir", []byte("d"), 0)
	must(os.Chmod(filepath.Join(dir, "etc"), 0o1777))
	must(filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		ts := []unix.Timespec{{Sec: 1e9 + int64(len(p))}, {Sec: 1e9 + int64(len(p))}}
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW))
	}))
	return dir
}

// socketPath is short enough for a socket's address.
func socketPath(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return fmt.Sprintf("/proc/self/fd/%d/socket", f.Fd())
}

// facts describes every file of a directory in a line; hard links by their
// first name.
func facts(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d", name, st.Mode, st.Mtim.Sec)
		if f, ok := first[st.Ino]; ok {
			line += " = " + f
		} else {
			first[st.Ino] = name
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += " " + digestOf(b)
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		for _, x := range []string{"user.note", "user.dir"} {
			value := make([]byte, 10)
			if n, err := unix.Lgetxattr(p, x, value); err == nil {
				line += fmt.Sprintf(" %s=%q", x, value[:n])
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// image writes an image of a tree and opens it.
func image(t *testing.T, build func(*squashfs.Writer) (*squashfs.Node, error)) *squashfs.Reader {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w, err := squashfs.NewWriter(f, squashfs.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	root, err := build(w)
	if err != nil {
		t.Fatal(err)
	}
	size, err := w.Finish(root)
	if err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.NewReader(f, size, squashfs.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func imageOfDir(t *testing.T, dir string) *squashfs.Reader {
	return image(t, func(w *squashfs.Writer) (*squashfs.Node, error) {
		return FromDir(context.Background(), dir, w, Options{})
	})
}

func imageOfLayers(t *testing.T, all []Layer) *squashfs.Reader {
	return image(t, func(w *squashfs.Writer) (*squashfs.Node, error) {
		return Merge(context.Background(), all, w, Options{})
	})
}

func TestDirectoryToImageAndBack(t *testing.T) {
	source := sourceDir(t)
	r := imageOfDir(t, source)
	for _, workers := range []int{0, 1, 7} {
		dir := filepath.Join(t.TempDir(), "copy")
		if err := Extract(context.Background(), r, dir, ExtractOptions{Workers: workers}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(facts(t, source), facts(t, dir)); diff != "" {
			t.Error(diff)
		}
	}
}

// The same layers make the same image, byte for byte, however many goroutines
// read, compress and write.
func TestImageOfLayersIsReproducible(t *testing.T) {
	all := layers(t, realistic()...)
	all = append(all, layers(t, big(), []file{f("d/b", random(50_000)), e("a => z")})...)
	var images []string
	for _, workers := range []int{1, 2, 16} {
		path := filepath.Join(t.TempDir(), "image")
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		w, err := squashfs.NewWriter(out, squashfs.WriterOptions{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		root, err := Merge(context.Background(), all, w, Options{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Finish(root); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), out.Close()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, digestOf(b))
	}
	if images[0] != images[1] || images[0] != images[2] {
		t.Errorf("images differ: %v", images)
	}
}

func TestExtractKeepsHoles(t *testing.T) {
	r := imageOfDir(t, sourceDir(t))
	dir := t.TempDir()
	if err := Extract(context.Background(), r, dir, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "sparse"), &st); err != nil || st.Size != 8<<20 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes in %d blocks, %v", st.Size, st.Blocks, err)
	}
}

func TestFromDirNamesWhatItCannotRead(t *testing.T) {
	if os.Geteuid() == 0 {
		asNobody(t)
		return
	}
	dir := sourceDir(t)
	if err := os.Chmod(filepath.Join(dir, "etc/passwd"), 0); err != nil {
		t.Fatal(err)
	}
	_, err := FromDir(context.Background(), dir, &memory{}, Options{})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), filepath.Join(dir, "etc/passwd")) {
		t.Error(err)
	}
}

// asNobody runs the present test as a user whom permissions bind.
func asNobody(t *testing.T) {
	t.Helper()
	const nobody = 65534
	dir, err := os.MkdirTemp("/tmp", "layer")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestFromDirFails(t *testing.T) {
	dir := sourceDir(t)
	if _, err := FromDir(context.Background(), filepath.Join(dir, "absent"), &memory{}, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := FromDir(context.Background(), dir, fullStore{}, Options{}); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir+"/big") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := FromDir(ctx, dir, &memory{}, Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The order of what is stored is that of the names, so that the image is the
// same however the filesystem lists them.
func TestFromDirStoresInOrder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"c", "a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store := &memory{}
	if _, err := FromDir(context.Background(), dir, store, Options{}); err != nil || !slices.Equal(store.order, []string{"a", "b", "c"}) {
		t.Errorf("%v %v", store.order, err)
	}
}
