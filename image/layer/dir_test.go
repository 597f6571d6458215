package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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

func hostile() []Layer {
	return []Layer{stored("x", mustArchive(
		file{name: "suid", content: "x", mode: 0o6755, uid: 1234, gid: 99},
		file{name: "secret", content: "x", mode: 0o4},
		file{name: "closed/", mode: 0o1},
		file{name: "closed/in/", mode: 0o555},
		file{name: "closed/in/x", content: "x", mode: 0o444},
		file{name: "null", typ: '3', major: 1, minor: 3},
		file{name: "sda", typ: '4', major: 8, minor: 0},
		file{name: "also => sda"},
		file{name: "link -> /etc"},
		file{name: "up -> ../.."},
	))}
}

func mustArchive(files ...file) []byte {
	return archive(&testing.T{}, files...)
}

func TestExtractMakesFilesTheCallersOwn(t *testing.T) {
	r := imageOfLayers(t, hostile())
	dir := t.TempDir()
	var log bytes.Buffer
	o := ExtractOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}
	if err := Extract(context.Background(), r, dir, o); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{
		"suid": 0o755, "secret": 0o604, "closed": os.ModeDir | 0o701, "closed/in": os.ModeDir | 0o755, "closed/in/x": 0o644,
		"link": os.ModeSymlink | 0o777, "up": os.ModeSymlink | 0o777,
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	for _, name := range []string{"null", "sda", "also"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text := log.String(); strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, `"device nodes left out"=3`) {
		t.Errorf("log: %s", text)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// With Owners, what the kernel refuses is counted, and the rest kept.
func TestExtractWithOwners(t *testing.T) {
	r := imageOfLayers(t, hostile())
	dir := t.TempDir()
	t.Cleanup(func() { // so that it can be deleted
		_ = os.Chmod(filepath.Join(dir, "closed"), 0o700)
		_ = os.Chmod(filepath.Join(dir, "closed/in"), 0o700)
	})
	var log bytes.Buffer
	o := ExtractOptions{Owners: true, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if err := Extract(context.Background(), r, dir, o); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "suid"), &st); err != nil || st.Mode != unix.S_IFREG|0o6755 {
		t.Errorf("%o %v", st.Mode, err)
	}
	// Root of a namespace may not have this ID either.
	owned := os.Chown(t.TempDir(), 1234, 99) == nil
	if owned && (st.Uid != 1234 || st.Gid != 99) || !owned && !strings.Contains(log.String(), `"owners not set"=`) {
		t.Errorf("owner %d:%d, log: %s", st.Uid, st.Gid, &log)
	}
	made := unix.Mknod(filepath.Join(t.TempDir(), "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) == nil
	err := unix.Lstat(filepath.Join(dir, "null"), &st)
	if made && (err != nil || st.Rdev != unix.Mkdev(1, 3)) || !made && !strings.Contains(log.String(), `"device nodes left out"=3`) {
		t.Errorf("device %#x %v, log: %s", st.Rdev, err, &log)
	}
}

func TestExtractRefusesADirectoryInUse(t *testing.T) {
	r := imageOfLayers(t, hostile())
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Extract(context.Background(), r, dir, ExtractOptions{}); !errors.Is(err, unix.ENOTEMPTY) {
		t.Error(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Error(names, err)
	}
}

// A failure in the middle leaves nothing behind.
func TestExtractUndoesWhatItHasMade(t *testing.T) {
	all := layers(t, []file{e("d/"), f("d/a", random(1<<20)), e("d/e/"), f("d/e/b", random(2<<20)), f("z", random(100_000))})
	for _, exists := range []bool{true, false} {
		r := imageOfLayers(t, all)
		dir := filepath.Join(t.TempDir(), "d")
		if exists {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		err := Extract(ctx, r, dir, ExtractOptions{Workers: 2, Progress: func(int64) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		names, err := os.ReadDir(dir)
		if exists && (err != nil || len(names) > 0) || !exists && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left %v, %v", names, err)
		}
		cancel()
	}
}

func TestExtractSetsTimes(t *testing.T) {
	r := imageOfLayers(t, layers(t, []file{{name: "d/", mtime: 1e9}, {name: "d/x", content: "x", mtime: 1e9 + 1}}))
	dir := t.TempDir()
	if err := Extract(context.Background(), r, dir, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"d": 1e9, "d/x": 1e9 + 1} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.ModTime().Equal(time.Unix(want, 0)) {
			t.Errorf("%s: %v %v", name, info.ModTime(), err)
		}
	}
}

// bareImage makes an image whose tables are not compressed, so that a test can
// change them.
func bareImage(t *testing.T, dir string) []byte {
	t.Helper()
	needs(t, "mksquashfs")
	path := filepath.Join(t.TempDir(), "bare")
	cmd := exec.Command("mksquashfs", dir, path, "-noI", "-noD", "-noF", "-noX", "-no-progress", "-quiet", "-processors", "1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An image may hold two files of one name, a symbolic link out of the target
// and a directory: what lies in the directory must not follow the link.
func TestExtractDoesNotFollowALinkInADirectorysPlace(t *testing.T) {
	outside := t.TempDir()
	source := t.TempDir()
	if err := errors.Join(
		os.Symlink(outside, filepath.Join(source, "place-a")),
		os.Mkdir(filepath.Join(source, "place-b"), 0o755),
		os.WriteFile(filepath.Join(source, "place-b", "evil"), []byte("x"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	b := bareImage(t, source)
	for _, to := range []string{"place-a", "../../p", "..\x00\x00\x00\x00\x00", ".\x00\x00\x00\x00\x00\x00", "place/b"} {
		bad := bytes.ReplaceAll(b, []byte("place-b"), []byte(to))
		r, err := squashfs.NewReader(bytes.NewReader(bad), int64(len(bad)), squashfs.ReaderOptions{})
		if err != nil {
			continue
		}
		dir := filepath.Join(t.TempDir(), "d")
		if err := Extract(context.Background(), r, dir, ExtractOptions{}); err == nil {
			t.Errorf("%q: extracted", to)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: left %s: %v", to, dir, err)
		}
	}
	if names, err := os.ReadDir(outside); err != nil || len(names) > 0 {
		t.Errorf("wrote %v, %v", names, err)
	}
}

func TestExtractOfADamagedImageStaysInside(t *testing.T) {
	source := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(source, "a/b/c"), 0o755),
		os.Symlink("/", filepath.Join(source, "a/link")),
		os.WriteFile(filepath.Join(source, "a/b/file"), []byte("content"), 0o644),
		os.Link(filepath.Join(source, "a/b/file"), filepath.Join(source, "a/hard")),
		os.WriteFile(filepath.Join(source, "large"), []byte(random(200_000)), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	b := bareImage(t, source)
	parent := t.TempDir()
	flips := 0
	for at := range b {
		if at > 96 && at < 200_000 { // the superblock and the tables, not the contents
			continue
		}
		bad := bytes.Clone(b)
		bad[at] ^= 1 << (at % 8)
		flips++
		r, err := squashfs.NewReader(bytes.NewReader(bad), int64(len(bad)), squashfs.ReaderOptions{CacheBytes: 1 << 20})
		if err != nil {
			continue
		}
		dir := filepath.Join(parent, "d")
		_ = Extract(context.Background(), r, dir, ExtractOptions{Workers: 1})
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if names, err := os.ReadDir(parent); err != nil || len(names) > 0 {
			t.Fatalf("flip at %d wrote %v, %v", at, names, err)
		}
	}
	t.Logf("%d damaged images", flips)
}
