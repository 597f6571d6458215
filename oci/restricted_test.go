package oci

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// restrictedMain refuses system calls, as an outer container's seccomp profile
// does, and goes on as a caller: x restricted ERRNO NR,NR… PLANFILE.
func restrictedMain(args []string) int {
	errno, _ := strconv.Atoi(args[0])
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // the number
	for _, text := range strings.Split(args[1], ",") {
		nr, _ := strconv.Atoi(text)
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(nr)},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if _, _, err := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); err != 0 {
		return 98
	}
	syscall.Exec("/proc/self/exe", []string{"coracle", "x", "caller", args[2]}, os.Environ())
	return 97
}

func restricted(t *testing.T, p *Plan, errno syscall.Errno, numbers ...int) result {
	t.Helper()
	var list []string
	for _, nr := range numbers {
		list = append(list, strconv.Itoa(nr))
	}
	cmd := caller(t, p)
	cmd.Args = []string{"coracle", "x", "restricted", strconv.Itoa(int(errno)), strings.Join(list, ","), cmd.Args[len(cmd.Args)-1]}
	return finish(t, cmd)
}

func TestSeccompOfAnOuterContainer(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		host := t.TempDir()
		if err := os.WriteFile(host+"/file", []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name    string
			errno   syscall.Errno
			numbers []int
		}{
			{"pivot_root", unix.EPERM, []int{unix.SYS_PIVOT_ROOT}},
			{"mount_setattr", unix.EPERM, []int{unix.SYS_MOUNT_SETATTR}},
			{"openat2", unix.EPERM, []int{unix.SYS_OPENAT2}},
			{"an old kernel", unix.ENOSYS, []int{unix.SYS_MOUNT_SETATTR, unix.SYS_OPENAT2, unix.SYS_CLONE3, unix.SYS_PIDFD_OPEN}},
			{"all of them", unix.EPERM, []int{unix.SYS_PIVOT_ROOT, unix.SYS_MOUNT_SETATTR, unix.SYS_OPENAT2, unix.SYS_FSOPEN, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_SETHOSTNAME}},
		} {
			t.Run(c.name, func(t *testing.T) {
				p := planFor(t, root, "payload", "look")
				p.Mounts = append(p.Mounts, Mount{Type: "bind", Source: host, Target: "/var/run", Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV})
				if r := restricted(t, p, c.errno, c.numbers...); r.code != 0 || !strings.Contains(r.stdout, " /run ro,nosuid,nodev") {
					t.Errorf("code %d\n%s\n%s", r.code, r.stdout, r.stderr)
				}
				p.Process.Args = []string{"payload", "userns"}
				if r := restricted(t, p, c.errno, c.numbers...); r.stdout != "nested\n" {
					t.Errorf("nested user namespace: %q, %s", r.stdout, r.stderr)
				}
				p.Process.Args = []string{"payload", "write", "/etc/new", "x"}
				if r := restricted(t, p, c.errno, c.numbers...); r.code != 1 {
					t.Errorf("write: code %d, %s", r.code, r.stderr)
				}
			})
		}
	})
}

// prepareMain changes the mounts of a namespace of its own, as an outer
// container or an administrator would have, and goes on as a caller:
// x prepared KIND DIR PLANFILE.
func prepareMain(args []string) int {
	var err error
	switch args[0] {
	case "nofuse":
		err = unix.Mount("/dev/null", "/dev/fuse", "", unix.MS_BIND, "")
	case "locked":
		err = unix.Mount("tmpfs", args[1], "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, "")
	case "below":
		if err = os.Mkdir(args[1]+"/mounted", 0o755); err == nil {
			err = unix.Mount("tmpfs", args[1]+"/mounted", "tmpfs", 0, "")
		}
	case "masked":
		err = unix.Mount("/dev/null", "/proc/version", "", unix.MS_BIND, "")
	}
	if err != nil {
		return 96
	}
	args = append([]string{"coracle", "x"}, args[2:]...)
	syscall.Exec("/proc/self/exe", args, os.Environ())
	return 97
}

func prepared(t *testing.T, kind, dir string, p *Plan) *exec.Cmd {
	t.Helper()
	cmd := caller(t, p)
	cmd.Args = append([]string{"coracle", "x", "prepared", kind, dir}, cmd.Args[2:]...)
	ids := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid()),
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
	}
	return cmd
}

func TestNoFUSE(t *testing.T) {
	needsFUSE(t)
	r := finish(t, prepared(t, "nofuse", "", planFor(t, image(t), "payload", "look")))
	if r.code != 255 || !strings.Contains(r.stderr, "FATAL: mount fuse: invalid argument (*oci.FUSEError)") {
		t.Errorf("code %d, %s", r.code, r.stderr)
	}
}

func TestLockedFlagsAreKept(t *testing.T) {
	needsContainers(t)
	locked := t.TempDir()
	p := planFor(t, sandbox(t), "payload", "look")
	p.Mounts = append(p.Mounts, Mount{Type: "bind", Source: locked, Target: "/var/run", Flags: unix.MS_RDONLY})
	const want = " /run ro,nosuid,nodev,noexec,noatime "
	if r := finish(t, prepared(t, "locked", locked, p)); r.code != 0 || !strings.Contains(r.stdout, want) {
		t.Errorf("code %d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
	// The same by the remount of older kernels.
	cmd := prepared(t, "locked", locked, p)
	last := len(cmd.Args) - 1
	cmd.Args = append(cmd.Args[:last-1], "restricted", strconv.Itoa(int(unix.ENOSYS)), strconv.Itoa(unix.SYS_MOUNT_SETATTR), cmd.Args[last])
	if r := finish(t, cmd); r.code != 0 || !strings.Contains(r.stdout, want) {
		t.Errorf("remount: code %d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
}

func TestBindOfADirectoryWithInheritedMounts(t *testing.T) {
	needsContainers(t)
	host := t.TempDir()
	p := planFor(t, sandbox(t), "payload", "look")
	p.Mounts = append(p.Mounts, Mount{Type: "bind", Source: host, Target: "/var/run", Flags: unix.MS_RDONLY})
	if r := finish(t, prepared(t, "below", host, p)); r.code != 0 || !strings.Contains(r.stdout, " /run/mounted ro") {
		t.Errorf("code %d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
}

func TestMaskedProc(t *testing.T) {
	needsContainers(t)
	needsProc(t)
	p := planFor(t, sandbox(t), "payload", "look")
	withPID(p, true)
	r := finish(t, prepared(t, "masked", "", p))
	if r.code != 255 || !strings.Contains(r.stderr, "mount proc on /proc: operation not permitted") {
		t.Errorf("explicit: code %d, %s", r.code, r.stderr)
	}
	p.Namespaces.PIDOptional, p.Namespaces.PIDWarn = true, "no PID namespace"
	r = finish(t, prepared(t, "masked", "", p))
	if r.code != 0 || strings.Count(r.stderr, "no PID namespace") != 1 || strings.Contains(r.stdout, `"pid":1,`) {
		t.Errorf("optional: code %d, %s\n%s", r.code, r.stderr, r.stdout)
	}
}

func TestShowsProc(t *testing.T) {
	const proc = "20 1 0:21 / /proc rw - proc proc rw\n"
	for _, c := range []struct {
		name, info string
		want       bool
	}{
		{"a host", proc + "21 20 0:40 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n", true},
		{"a masked file", proc + "21 20 0:5 /null /proc/kcore rw - devtmpfs udev rw\n", false},
		{"a read-only part", proc + "21 20 0:21 /sys /proc/sys ro - proc proc rw\n", false},
		{"masked, and whole elsewhere", proc + "21 20 0:5 /null /proc/kcore rw - devtmpfs udev rw\n22 1 0:21 / /hostproc rw - proc proc rw\n", true},
		{"none", "1 0 8:1 / / rw - ext4 /dev/sda rw\n", false},
		{"optional fields", "20 1 0:21 / /proc rw shared:5 - proc proc rw\n", true},
	} {
		if got := showsProc([]byte(c.info)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// Both ways to resolve a name below a root find the same.
func TestOpenBelow(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/b/c", "run"} {
		os.MkdirAll(filepath.Join(dir, name), 0o755)
	}
	for link, target := range map[string]string{"abs": "/a/b", "up": "../../../../a", "a/rel": "b/../b/c", "loop": "loop", "chain": "abs/c", "dangling": "/nowhere"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	probe, err := unix.Openat2(root, ".", &unix.OpenHow{Flags: unix.O_PATH, Resolve: unix.RESOLVE_IN_ROOT})
	needs(t, "openat2", err == nil)
	unix.Close(probe)
	for _, name := range []string{"/", "", ".", "..", "/a/../..", "/abs", "/abs/c", "/up/b", "a/rel", "chain/..", "loop", "dangling", "/no", "/a/b/c/d", "//a///b/"} {
		for _, flags := range []int{unix.O_PATH, unix.O_PATH | unix.O_NOFOLLOW} {
			a, errA := openBelow(root, name, flags)
			b, errB := walkBelow(root, name, flags)
			if !errors.Is(errB, errA) && (errA != nil || errB != nil) {
				t.Errorf("%q: openat2 %v, by hand %v", name, errA, errB)
				continue
			}
			if errA != nil {
				continue
			}
			var stA, stB unix.Stat_t
			unix.Fstat(a, &stA)
			unix.Fstat(b, &stB)
			unix.Close(a)
			unix.Close(b)
			if stA.Ino != stB.Ino {
				t.Errorf("%q: openat2 found %d, by hand %d", name, stA.Ino, stB.Ino)
			}
		}
	}
}
