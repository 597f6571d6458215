package oci

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// settle makes the process what the payload will be: host name, loopback,
// directory, umask, ids, capabilities.
//
// Runs in: x init, inside the container's root, on the locked thread. Only that
// thread is changed: it executes the payload or forks it.
func (in *initProcess) settle() error {
	p := &in.plan
	if p.Hostname != "" && p.Namespaces.UTS {
		if err := unix.Sethostname([]byte(p.Hostname)); err != nil { // EPERM in rootless Podman's default profile
			in.warn(fmt.Sprintf("cannot set the host name %s: %v", p.Hostname, err))
		}
	}
	if p.Namespaces.Net {
		if err := loopbackUp(); err != nil {
			in.warn(fmt.Sprintf("cannot bring up the loopback interface: %v", err))
		}
	}
	if p.Process.Umask >= 0 {
		unix.Umask(p.Process.Umask)
	}
	if err := in.privileges(); err != nil {
		return err
	}
	in.directory()
	return nil
}

// directory enters the first candidate that exists; "/" is where we are.
func (in *initProcess) directory() {
	for i, dir := range in.plan.Process.Cwd {
		err := unix.Chdir(dir)
		if err == nil {
			return
		}
		if i == 0 {
			in.note("change to directory %s: %v", dir, err)
		}
	}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// privileges takes on the payload's ids and gives up what it shall not have.
func (in *initProcess) privileges() error {
	p := &in.plan.Process
	drop, err := in.boundingDrops()
	if err != nil {
		return err
	}
	for _, c := range drop {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return &StepError{Step: "drop capability " + capNames[c], Err: err}
		}
	}
	if err := in.changeIDs(); err != nil {
		return err
	}
	switch {
	case !p.KeepCaps:
		err = setCapabilities(func(unix.CapUserData, int) (d unix.CapUserData) { return d })
	case p.UID == 0 || len(drop) > 0:
		err = setCapabilities(func(d unix.CapUserData, word int) unix.CapUserData {
			for _, c := range drop {
				if c/32 == word {
					d.Permitted &^= 1 << (c % 32)
				}
			}
			d.Effective, d.Inheritable = d.Permitted, d.Inheritable&d.Permitted
			if p.UID == 0 {
				// execve gives them anyway; inherited they would outlive
				// a change to another user (CVE-2022-24769).
				d.Inheritable = 0
			}
			return d
		})
	}
	if err != nil {
		return &StepError{Step: "drop capabilities", Err: err}
	}
	if p.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return &StepError{Step: "set no_new_privs", Err: err}
		}
	}
	return nil
}

// setCapabilities changes both words of this thread's sets. The ambient set
// follows the inheritable one down.
func setCapabilities(change func(d unix.CapUserData, word int) unix.CapUserData) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&hdr, &sets[0]); err != nil {
		return err
	}
	for i := range sets {
		sets[i] = change(sets[i], i)
	}
	return unix.Capset(&hdr, &sets[0])
}

// boundingDrops lists the capabilities that leave the bounding set. execve
// gives uid 0 the whole bounding set again, so that it must be emptied where the
// payload shall have none.
func (in *initProcess) boundingDrops() ([]int, error) {
	p := &in.plan.Process
	rootless := p.KeepCaps || p.UID != 0
	if p.Bounding == nil && rootless {
		return nil, nil
	}
	keep := make([]bool, len(capNames))
	for _, name := range p.Bounding {
		c := slices.Index(capNames[:], strings.ToUpper(name))
		if c < 0 {
			return nil, &StepError{Step: "keep capability " + name, Err: syscall.EINVAL}
		}
		keep[c] = rootless
	}
	var drop []int
	for c := range capNames {
		if keep[c] {
			continue
		}
		// EINVAL: not known to this kernel
		if held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && held == 1 {
			drop = append(drop, c)
		}
	}
	return drop, nil
}

// changeIDs becomes the payload's user where x init runs as another one. The
// supplementary groups stay: they carry the caller's access to files.
func (in *initProcess) changeIDs() error {
	p := &in.plan.Process
	uid, gid := os.Getuid(), os.Getgid()
	if uid == p.UID && gid == p.GID {
		return nil
	}
	if p.KeepCaps {
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return &StepError{Step: "keep capabilities", Err: err}
		}
	}
	// The syscall package's own would change all threads, those that will not
	// live to see the payload included.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(p.GID), uintptr(p.GID), uintptr(p.GID)); errno != 0 {
		return &StepError{Step: fmt.Sprintf("become group %d", p.GID), Err: errno}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(p.UID), uintptr(p.UID), uintptr(p.UID)); errno != 0 {
		return &StepError{Step: fmt.Sprintf("become user %d", p.UID), Err: errno}
	}
	if p.KeepCaps && p.UID != 0 {
		if err := raiseAmbient(); err != nil {
			return &StepError{Step: "keep capabilities", Err: err}
		}
	}
	// The kernel forgets the parent's death when ids change.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return &StepError{Step: "die with the caller", Err: err}
	}
	if in.callerIsGone() {
		return &StepError{Step: "die with the caller", Err: unix.ESRCH}
	}
	return nil
}

// raiseAmbient makes all permitted capabilities survive the execve of a uid
// other than 0.
func raiseAmbient() error {
	var held [2]uint32
	err := setCapabilities(func(d unix.CapUserData, word int) unix.CapUserData {
		held[word] = d.Permitted
		return unix.CapUserData{Permitted: d.Permitted, Effective: d.Permitted, Inheritable: d.Permitted}
	})
	for c := 0; c < len(capNames) && err == nil; c++ {
		if held[c/32]&(1<<(c%32)) != 0 {
			err = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0)
		}
	}
	return err
}

// callerIsGone looks at the report socket: nobody else holds its other end.
func (in *initProcess) callerIsGone() bool {
	fds := []unix.PollFd{{Fd: int32(in.reportFD)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// capNames are the capabilities in the kernel's order (linux/capability.h).
var capNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}
