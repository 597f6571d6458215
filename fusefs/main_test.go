package fusefs

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// The test binary plays several parts, told by this variable: it reruns itself
// in namespaces of its own, where it may mount, and it serves in processes of
// their own, as the real thing does.
const roleVariable = "CORACLE_FUSEFS_ROLE"

const (
	roleInside = "inside" // runs the tests, in namespaces of their own
	roleServe  = "serve"  // descriptors 3: device, 4: image, 5: config
	roleRead   = "read"   // reads files, for measurements
	roleHolder = "holder" // mounts in a mount namespace of its own and execs a shell
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case roleServe:
		os.Exit(serveMain())
	case roleHolder:
		os.Exit(holderMain())
	case roleRead:
		os.Exit(readMain())
	case roleInside:
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "make mounts private:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if code, ok := rerunInside(); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// rerunInside runs the tests in a mount namespace, and in a user namespace
// where that takes one, so that they may mount and leave no mounts behind.
func rerunInside() (code int, ok bool) {
	runtime.LockOSThread() // a parent's death is its thread's
	own := syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	user := own
	user.Cloneflags |= syscall.CLONE_NEWUSER
	user.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	user.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	for _, attr := range []*syscall.SysProcAttr{&own, &user} {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Args[0] = os.Args[0]
		cmd.Env = append(os.Environ(), roleVariable+"="+roleInside)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = attr
		if cmd.Start() != nil {
			continue
		}
		if cmd.Wait(); cmd.ProcessState.ExitCode() < 0 {
			return 1, true
		}
		return cmd.ProcessState.ExitCode(), true
	}
	return 0, false
}

// served is what a serving process tells at its end.
type served struct {
	Error   string
	PeakKiB int // most memory that was resident
}

func serveMain() int {
	var c Config
	if err := json.NewDecoder(os.NewFile(5, "config")).Decode(&c); err != nil {
		return report(err)
	}
	c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	image := os.NewFile(4, "image")
	info, err := image.Stat()
	if err != nil {
		return report(err)
	}
	r, err := squashfs.NewReader(image, info.Size(), squashfs.ReaderOptions{ReadAhead: true})
	if err != nil {
		return report(err)
	}
	s, err := New(r, c)
	if err != nil {
		return report(err)
	}
	return report(s.Serve(3))
}

func report(err error) int {
	end := served{PeakKiB: peakKiB()}
	if err != nil {
		end.Error = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(end)
	return 0
}

// peakKiB is not taken from the resource usage that wait returns: it counts
// the parent's memory before execve, too.
func peakKiB() int {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib
		}
	}
	return 0
}
