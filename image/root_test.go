package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// rootTree is a tree with every kind of link that images have, and some that
// attackers make.
func rootTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"etc", "usr/bin", "a/b"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0::/:\n", "usr/bin/sh": "#!", "a/b/c": strings.Repeat("x", 1000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"bin": "usr/bin", "abs": "/etc/passwd", "up": "../../../../etc/passwd", "loop": "loop", "etc/back": "../a/./b/../b",
		"dangling": "/no/such", "chain": "etc/back/c", "dirabs": "/usr//bin/", "a/self": ".",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func sandbox(t *testing.T, dir string) Root {
	t.Helper()
	img, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	if img.Format != Sandbox {
		t.Fatalf("format %v", img.Format)
	}
	r, err := img.Root()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSandboxRoot(t *testing.T) { testRoot(t, sandbox(t, rootTree(t))) }

// testRoot holds an implementation of Root that shows rootTree to what the
// interface promises.
func testRoot(t *testing.T, r Root) {
	t.Run("Resolve", func(t *testing.T) { testResolve(t, r) })
	st, err := r.Lstat("/etc/passwd")
	if err != nil || st.Mode != unix.S_IFREG|0o640 || st.Size != 15 || !st.IsRegular() || st.IsDir() {
		t.Errorf("passwd: %+v, %v", st, err)
	}
	if st, err := r.Lstat("/"); err != nil || !st.IsDir() {
		t.Errorf("/: %+v, %v", st, err)
	}
	if st, err := r.Lstat("/abs"); err != nil || !st.IsSymlink() {
		t.Errorf("/abs: %+v, %v", st, err)
	}
	if text, err := r.ReadFile("/a/b/c", 1000); err != nil || len(text) != 1000 {
		t.Errorf("/a/b/c: %d bytes, %v", len(text), err)
	}
	if target, err := r.Readlink("/dirabs"); err != nil || target != "/usr//bin/" {
		t.Errorf("/dirabs: %q, %v", target, err)
	}
	if names, err := r.ReadDir("/etc"); err != nil || !reflect.DeepEqual(names, []string{"back", "passwd"}) {
		t.Errorf("/etc: %q, %v", names, err)
	}
	_, errs := r.ReadDir("/etc/passwd")
	expect(t, "ReadDir of a file", errs, unix.ENOTDIR)
	_, errs = r.ReadFile("/a/b/c", 999)
	expect(t, "ReadFile of more than the limit", errs, unix.EFBIG)
	_, errs = r.ReadFile("/etc", 999)
	expect(t, "ReadFile of a directory", errs, unix.EISDIR)
	_, errs = r.ReadFile("/fifo", 999)
	expect(t, "ReadFile of a FIFO", errs, fs.ErrInvalid)
	_, errs = r.Lstat("/etc/none")
	expect(t, "Lstat of nothing", errs, fs.ErrNotExist)
	_, errs = r.Lstat("/etc/passwd/x")
	expect(t, "Lstat below a file", errs, unix.ENOTDIR)
	_, errs = r.Readlink("/etc/passwd")
	expect(t, "Readlink of a file", errs, unix.EINVAL)
	if _, err = r.ReadFile("/abs", 999); err == nil {
		t.Error("ReadFile follows a last link")
	}
	if _, err = r.Lstat("/bin/sh"); err == nil {
		t.Error("Lstat follows a link on the way")
	}
}

func expect(t *testing.T, what string, err, want error) {
	t.Helper()
	var pathErr *fs.PathError
	if !errors.Is(err, want) || !errors.As(err, &pathErr) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func testResolve(t *testing.T, r Root) {
	for in, want := range map[string]string{
		"/": "/", "": "/", "/..": "/", "/../../etc": "/etc", "/bin/sh": "/usr/bin/sh", "/abs": "/etc/passwd",
		"/up": "/etc/passwd", "/chain": "/a/b/c", "/etc/back/c": "/a/b/c", "/dirabs/sh": "/usr/bin/sh",
		"/dangling/x": "/no/such/x", "/none/a/../b": "/none/b", "/none/../abs": "/etc/passwd",
		"/a/self/self/self/b": "/a/b", "/bin/../x": "/usr/x", "bin//sh": "/usr/bin/sh",
	} {
		if got, err := Resolve(r, in); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	_, err := Resolve(r, "/loop/x")
	expect(t, "a loop", err, unix.ELOOP)
	_, err = Resolve(r, "/etc/passwd/x")
	expect(t, "below a file", err, unix.ENOTDIR)
}
