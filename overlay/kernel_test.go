package overlay

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const inside = "OVERLAY_TEST_INSIDE"

// TestMain runs the tests in a user and mount namespace of their own, where
// mounting is allowed and nothing is left behind.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	}
	os.Exit(m.Run()) // without namespaces: the tests say what they need
}

func needs(t *testing.T, what string, there bool) {
	t.Helper()
	if there {
		return
	}
	if os.Getenv("CORACLE_TEST_STRICT") == "1" {
		t.Fatal("needs " + what)
	}
	t.Skip("needs " + what)
}

// scratch is a tmpfs: not every filesystem takes an upper layer.
func scratch(t *testing.T) string {
	t.Helper()
	needs(t, "user namespaces", os.Getenv(inside) != "")
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "")
	needs(t, "mounts in a user namespace", err == nil)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	probe := Probe(dir)
	needs(t, "overlayfs in user namespaces", !errors.Is(probe, unix.EPERM) && !errors.Is(probe, unix.ENODEV))
	if probe != nil {
		t.Fatal(probe)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 0 {
		t.Fatalf("the probe leaves %v", left)
	}
	return dir
}

func tree(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func merged(t *testing.T, base string, o Options) string {
	t.Helper()
	dir := filepath.Join(base, "merged")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Mount(dir, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func content(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestUpperHidesLower(t *testing.T) {
	base := scratch(t)
	top := tree(t, base+"/top", map[string]string{"a": "top", "only": "1"})
	bottom := tree(t, base+"/bottom", map[string]string{"a": "bottom", "gone": "2", "dir/b": "3"})
	upper, work := base+"/upper", base+"/work"
	os.Mkdir(upper, 0o755)
	os.Mkdir(work, 0o755)
	dir := merged(t, base, Options{Lower: []string{top, bottom}, Upper: upper, Work: work, Flags: unix.MS_NOSUID})
	if got := content(t, dir+"/a") + content(t, dir+"/only") + content(t, dir+"/dir/b"); got != "top13" {
		t.Errorf("merged %q", got)
	}
	if err := os.Remove(dir + "/gone"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/a", []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if content(t, upper+"/a") != "changed" || content(t, top+"/a") != "top" {
		t.Error("the change is not in the upper layer alone")
	}
	if err := os.Rename(dir+"/dir", dir+"/moved"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("rename of a lower directory: %v; the package comment says EXDEV", err)
	}
}

// Names with the option string's own characters, and more layers than a page of
// options has room for.
func TestPathsThatNeedEscaping(t *testing.T) {
	base := scratch(t)
	var lower []string
	for i, name := range []string{"colon:s", "comma,s", `back\slash`, `all:of,them\`, "space s", "newline\ns", `\:`, "équipe"} {
		lower = append(lower, tree(t, filepath.Join(base, name), map[string]string{strconv.Itoa(i): name}))
	}
	upper, work := base+`/up:,\per`, base+`/wo:,\rk`
	os.Mkdir(upper, 0o755)
	os.Mkdir(work, 0o755)
	dir := merged(t, base, Options{Lower: lower, Upper: upper, Work: work})
	for i := range lower {
		if got, want := content(t, filepath.Join(dir, strconv.Itoa(i))), filepath.Base(lower[i]); got != want {
			t.Errorf("layer %d has %q, want %q", i, got, want)
		}
	}
	if err := os.WriteFile(dir+"/new", nil, 0o644); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(upper + "/new"); err != nil {
		t.Error(err)
	}
}

func TestLongLists(t *testing.T) {
	base := scratch(t)
	var lower []string
	for i := range 100 {
		name := strconv.Itoa(i)
		lower = append(lower, tree(t, filepath.Join(base, strings.Repeat("x", 100)+name), map[string]string{name: name}))
	}
	dir := merged(t, base, Options{Lower: lower})
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(lower) {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if err := os.WriteFile(dir+"/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("without an upper layer a write gives %v", err)
	}
}

func TestRefusals(t *testing.T) {
	base := scratch(t)
	lower := tree(t, base+"/lower", map[string]string{"a": "1"})
	for _, o := range []Options{
		{},
		{Lower: []string{lower}},
		{Lower: []string{lower}, Upper: base},
		{Lower: []string{lower, "/no,such"}},
	} {
		if err := Mount(base, o); err == nil {
			t.Errorf("%+v was mounted", o)
		}
	}
	var mountError *MountError
	if err := Mount(base, Options{Lower: []string{lower, "/no/such"}}); !errors.As(err, &mountError) || mountError.Errno != unix.ENOENT {
		t.Errorf("a missing layer: %v", err)
	}
	if err := Probe("/proc"); err == nil {
		t.Error("/proc passes for a place of upper layers")
	}
}
