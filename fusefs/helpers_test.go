package fusefs

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/layer"
	"github.com/coracle-runtime/coracle/image/squashfs"
)

// needs skips a test that cannot run here, or fails it where everything must.
func needs(t testing.TB, what string, there bool) {
	t.Helper()
	if there {
		return
	}
	if os.Getenv("CORACLE_TEST_STRICT") == "1" {
		t.Fatal("needs " + what)
	}
	t.Skip("needs " + what)
}

func needsProgram(t testing.TB, name string) {
	t.Helper()
	_, err := exec.LookPath(name)
	needs(t, name, err == nil)
}

func needsFUSE(t testing.TB) {
	t.Helper()
	needs(t, "a user namespace to mount in", os.Getenv(roleVariable) == roleInside)
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	needs(t, "/dev/fuse", err == nil)
	f.Close()
}

// initialNamespace tells whether we are the host's administrator.
func initialNamespace() bool {
	m, _ := os.ReadFile("/proc/self/uid_map")
	return os.Geteuid() == 0 && len(strings.Fields(string(m))) == 3 && strings.Fields(string(m))[2] == "4294967295"
}

// mksquashfs packs dir by the format's reference program.
func mksquashfs(t testing.TB, dir string, args ...string) string {
	t.Helper()
	needsProgram(t, "mksquashfs")
	image := filepath.Join(t.TempDir(), "image.sqfs")
	cmd := exec.Command("mksquashfs", append([]string{dir, image, "-noappend", "-quiet", "-no-progress"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs: %v\n%s", err, out)
	}
	return image
}

// pack packs dir by our own writer, for tests of what happens to any image.
func pack(t testing.TB, dir string, o squashfs.WriterOptions) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.sqfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := squashfs.NewWriter(f, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	root, err := layer.FromDir(t.Context(), dir, w, layer.Options{})
	if err == nil {
		_, err = w.Finish(root)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// mounted is an image served by a process of its own.
type mounted struct {
	dir    string
	server *exec.Cmd
	stdout bytes.Buffer
	stderr bytes.Buffer
}

// mountImage mounts an image and serves it until the test ends.
func mountImage(t testing.TB, image string, c Config) *mounted {
	t.Helper()
	needsFUSE(t)
	m := mountUntil(t, image, c)
	t.Cleanup(func() { m.end(t) })
	return m
}

// mountUntil mounts an image and serves it until end is called.
func mountUntil(t testing.TB, image string, c Config) *mounted {
	t.Helper()
	dir, err := os.MkdirTemp("", "mount")
	if err != nil {
		t.Fatal(err)
	}
	dev, err := Mount(dir, image, unix.MS_NOSUID|unix.MS_NODEV)
	if err != nil {
		t.Fatal(err)
	}
	m := serveImage(t, dev, image, c)
	m.dir = dir
	return m
}

// end unmounts and waits for the server, which must have nothing to complain of.
func (m *mounted) end(t testing.TB) {
	t.Helper()
	m.unmount(t)
	if end := m.wait(t); end.Error != "" {
		t.Errorf("serve: %s", end.Error)
	}
}

func (m *mounted) unmount(t testing.TB) {
	t.Helper()
	defer os.Remove(m.dir)
	err := unix.Unmount(m.dir, 0)
	for try := 0; err == unix.EBUSY && try < 500; try++ {
		// A process that another test has just forked holds copies of our
		// descriptors until its execve.
		time.Sleep(10 * time.Millisecond)
		err = unix.Unmount(m.dir, 0)
	}
	if err != nil {
		t.Errorf("unmount: %v", err)
		unix.Unmount(m.dir, unix.MNT_DETACH)
	}
}

// serveImage starts a server for a mounted device, which it closes here.
func serveImage(t testing.TB, dev *os.File, image string, c Config) *mounted {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer dev.Close()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		w.Write(config)
		w.Close()
	}()
	m := &mounted{server: exec.Command("/proc/self/exe")}
	m.server.Env = append(os.Environ(), roleVariable+"="+roleServe)
	m.server.ExtraFiles = []*os.File{dev, f, r}
	m.server.Stdout, m.server.Stderr = &m.stdout, &m.stderr
	m.server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := m.server.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

// wait waits for the server's end, which the mount's brings about.
func (m *mounted) wait(t testing.TB) served {
	t.Helper()
	late := time.AfterFunc(30*time.Second, func() { m.server.Process.Kill() })
	err := m.server.Wait()
	if !late.Stop() {
		t.Error("the server outlived its mount")
	}
	var end served
	if err := errors.Join(err, json.Unmarshal(m.stdout.Bytes(), &end)); err != nil {
		t.Errorf("server: %v\n%s", err, m.stderr.Bytes())
	}
	if bytes.Contains(m.stderr.Bytes(), []byte("panic")) || bytes.Contains(m.stderr.Bytes(), []byte("DATA RACE")) {
		t.Errorf("server: %s", m.stderr.Bytes())
	}
	return end
}

// write makes a file and the directories above it.
func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// openImage opens an image in this process, without a mount.
func openImage(t testing.TB, image string) *squashfs.Reader {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.NewReader(f, info.Size(), squashfs.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
