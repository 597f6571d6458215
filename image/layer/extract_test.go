package layer

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

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
	if text := log.String(); strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, "left out 3 device nodes") {
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
	if owned && (st.Uid != 1234 || st.Gid != 99) || !owned && !strings.Contains(log.String(), "could not set the owners") {
		t.Errorf("owner %d:%d, log: %s", st.Uid, st.Gid, &log)
	}
	made := unix.Mknod(filepath.Join(t.TempDir(), "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) == nil
	err := unix.Lstat(filepath.Join(dir, "null"), &st)
	if made && (err != nil || st.Rdev != unix.Mkdev(1, 3)) || !made && !strings.Contains(log.String(), "left out 3 device nodes") {
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
