package fusefs

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// holderMain stands for x init: it mounts in a mount namespace of its own,
// sends the device through descriptor 3, and becomes a shell. Its arguments
// are the mount point and the shell's script.
func holderMain() int {
	dev, err := Mount(os.Args[1], "image", unix.MS_NODEV)
	if err == nil {
		err = unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(dev.Fd())), nil, 0)
	}
	if err == nil {
		unix.CloseOnExec(3)
		err = unix.Exec("/bin/sh", []string{"sh", "-c", os.Args[2], os.Args[1]}, os.Environ())
	}
	os.Stderr.WriteString(err.Error() + "\n")
	return 1
}

// holder starts a process that mounts in its own mount namespace and runs a
// script there, and a server outside.
func holder(t *testing.T, image, script string) (*exec.Cmd, io.Reader, *mounted) {
	t.Helper()
	needsFUSE(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	cmd := exec.Command("/proc/self/exe", t.TempDir(), script)
	cmd.Env = append(os.Environ(), roleVariable+"="+roleHolder)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(pair[1]), "socket")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles[0].Close()
	w.Close()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		out, _ := io.ReadAll(r)
		t.Fatalf("receive device: %v\n%s", err, out)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return cmd, r, serveImage(t, os.NewFile(uintptr(fds[0]), "/dev/fuse"), image, Config{})
}

func smallImage(t *testing.T) string {
	dir := t.TempDir()
	write(t, dir+"/file", "content\n")
	write(t, dir+"/later", "still here\n")
	return pack(t, dir, squashfs.WriterOptions{})
}

// TestServerServesBackgroundProcesses keeps the mount up for a process that
// outlives the one that made it, and no longer.
func TestServerServesBackgroundProcesses(t *testing.T) {
	script := `cat "$0/file"; (sleep 0.5; cat "$0/later") & exit 3`
	cmd, out, m := holder(t, smallImage(t), script)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("the shell ended with %d", code)
	}
	if err := m.server.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the server ended with the first process: %v", err)
	}
	all, err := io.ReadAll(out) // until the background process has gone, too
	if err != nil || string(all) != "content\nstill here\n" {
		t.Errorf("the processes read %q, %v", all, err)
	}
	gone := time.Now()
	if end := m.wait(t); end.Error != "" {
		t.Errorf("serve: %s", end.Error)
	}
	if late := time.Since(gone); late > 5*time.Second {
		t.Errorf("the server ended %v after the last process", late)
	}
}

// TestServerEndsWithKilledProcesses kills the only process in the namespace
// while it reads.
func TestServerEndsWithKilledProcesses(t *testing.T) {
	cmd, out, m := holder(t, smallImage(t), `while cat "$0/file"; do :; done`)
	if _, err := io.ReadFull(out, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if end := m.wait(t); end.Error != "" {
		t.Errorf("serve: %s", end.Error)
	}
}

// TestServerComesTooLate finds the mount gone before it has read the first
// request.
func TestServerComesTooLate(t *testing.T) {
	needsFUSE(t)
	image := smallImage(t)
	dir := t.TempDir()
	dev, err := Mount(dir, image, unix.MS_NOSUID|unix.MS_NODEV)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if end := serveImage(t, dev, image, Config{}).wait(t); end.Error != "" {
		t.Errorf("serve: %s", end.Error)
	}
}

// TestServeRefusesOtherDescriptors says what it could not do.
func TestServeRefusesOtherDescriptors(t *testing.T) {
	s, err := New(openImage(t, smallImage(t)), Config{})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(fd); err == nil || !strings.HasPrefix(err.Error(), "serve file system: ") {
		t.Errorf("serve /dev/null: %v", err)
	}
}

// TestManyMountsAtOnce mounts, reads and unmounts over and over, which once
// deadlocked servers that were written in Go (golang/go#21014).
func TestManyMountsAtOnce(t *testing.T) {
	needsFUSE(t)
	image := smallImage(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				m := mountUntil(t, image, Config{})
				if b, err := os.ReadFile(m.dir + "/file"); string(b) != "content\n" {
					t.Errorf("read %q, %v", b, err)
				}
				m.end(t)
			}
		})
	}
	wg.Wait()
}

// TestKilledServerGivesErrors does not hang the processes that read.
func TestKilledServerGivesErrors(t *testing.T) {
	needsFUSE(t)
	image := smallImage(t)
	dir := t.TempDir()
	dev, err := Mount(dir, image, unix.MS_NOSUID|unix.MS_NODEV)
	if err != nil {
		t.Fatal(err)
	}
	m := serveImage(t, dev, image, Config{})
	if _, err := os.ReadFile(dir + "/file"); err != nil {
		t.Error(err)
	}
	m.server.Process.Kill()
	m.server.Wait()
	if _, err := os.ReadFile(dir + "/later"); !errorIs(err, unix.ENOTCONN) {
		t.Errorf("read from a dead server: %v, want %v", err, unix.ENOTCONN)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
}
