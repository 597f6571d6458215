package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The steps that come after the start, here and in whoever builds a root.
const (
	StepPropagation Step = "make mounts private"
	StepTmpfs       Step = "mount tmpfs"
	StepBind        Step = "bind mount"
	StepRemount     Step = "remount read-only"
	StepProc        Step = "mount proc"
	StepFuseOpen    Step = "open /dev/fuse"
	StepFuseMount   Step = "mount fuse"
	StepOverlay     Step = "mount overlay"
	StepOverlayUse  Step = "write to overlay"
	StepPivot       Step = "pivot_root"
	StepMove        Step = "move mount to /"
	StepChown       Step = "change owner"
	StepHostname    Step = "set host name"
	StepMqueue      Step = "mount mqueue"
	StepSysfs       Step = "mount sysfs"
	StepCgroup      Step = "mount cgroup2"
	StepAccess      Step = "execute from tmpfs"
	StepScratch     Step = "make files"
)

// probeResult is what a probe tells its parent, as JSON on standard output.
type probeResult struct {
	Step  Step          `json:"step,omitempty"` // refused; "" for success
	Errno syscall.Errno `json:"errno,omitempty"`
	Other string        `json:"other,omitempty"` // an error that is not the kernel's
	Moved bool          `json:"moved,omitempty"` // root: by MS_MOVE and chroot
	Nests bool          `json:"nests,omitempty"` // root: a user namespace can be made in it
}

// ProbeChild is the body of "coracle x probe NAME", a process that [Probe] has
// put into fresh namespaces. It tries one thing, tells on standard output how far
// it came, and gives the exit status.
//
// Runs in: the probe's process, in its new user and mount namespaces.
func ProbeChild(name string) int {
	runtime.LockOSThread() // chroot, and the parent of the nested probe
	var r probeResult
	err := r.probe(name)
	var refused *StartError
	if errors.As(err, &refused) {
		r.Step, r.Errno = refused.Step, refused.Err
	} else if err != nil {
		r.Other = err.Error()
	}
	if json.NewEncoder(os.Stdout).Encode(r) != nil {
		return 1
	}
	return 0
}

func (r *probeResult) probe(name string) error {
	switch name {
	case "nothing":
		return nil
	case "uts":
		return step(StepHostname, unix.Sethostname([]byte("coracle")))
	}
	if err := step(StepPropagation, unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")); err != nil {
		return err
	}
	base, err := scratch()
	if err != nil {
		return err
	}
	switch name {
	case "layout":
		return probeLayout(base)
	case "pid":
		return step(StepProc, unix.Mount("proc", base, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	case "fuse":
		return probeFuse(base)
	case "overlay":
		return probeOverlay(base)
	case "root":
		return r.probeRoot(base)
	case "ranges":
		return probeRanges(base)
	case "ipc":
		return step(StepMqueue, unix.Mount("mqueue", base, "mqueue", 0, ""))
	case "net":
		return step(StepSysfs, unix.Mount("sysfs", base, "sysfs", unix.MS_RDONLY, ""))
	case "cgroup":
		return step(StepCgroup, unix.Mount("cgroup2", base, "cgroup2", unix.MS_RDONLY, ""))
	}
	return fmt.Errorf("probe %q: there is no such probe", name)
}

// step names what a system call was for.
func step(s Step, err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return &StartError{Step: s, Err: errno}
	}
	return err
}

// scratch mounts a tmpfs over the first directory there is; it is gone with the
// mount namespace.
func scratch() (string, error) {
	for _, dir := range []string{"/tmp", "/var/tmp", "/run", "/mnt", "/etc"} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir, step(StepTmpfs, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"))
		}
	}
	return "", errors.New("no directory to mount on: /tmp, /var/tmp, /run, /mnt and /etc are missing")
}

// makeDirs also makes the file base/file.
func makeDirs(base string, names ...string) error {
	for _, n := range names {
		if err := os.Mkdir(filepath.Join(base, n), 0o755); err != nil {
			return step(StepScratch, err)
		}
	}
	return step(StepScratch, os.WriteFile(filepath.Join(base, "file"), []byte("x"), 0o755))
}

func probeLayout(base string) error {
	if err := makeDirs(base, "proc", "sys", "dev", "etc"); err != nil {
		return err
	}
	for _, dir := range []string{"proc", "sys", "dev", "etc"} {
		if _, err := os.Stat("/" + dir); err != nil {
			continue
		}
		if err := step(StepBind, unix.Mount("/"+dir, filepath.Join(base, dir), "", unix.MS_BIND|unix.MS_REC, "")); err != nil {
			return err
		}
	}
	file := filepath.Join(base, "file")
	if err := step(StepAccess, unix.Access(file, unix.X_OK)); err != nil {
		return err
	}
	if err := step(StepBind, unix.Mount(file, file, "", unix.MS_BIND, "")); err != nil {
		return err
	}
	etc := filepath.Join(base, "etc")
	var fs unix.Statfs_t
	if err := step(StepRemount, unix.Statfs(etc, &fs)); err != nil {
		return err
	}
	return step(StepRemount, unix.Mount("", etc, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|lockedFlags(fs), ""))
}

// lockedFlags are the flags that a mount in a user namespace has to keep; the
// numbers of statvfs(3) are those of mount(2), except ST_RELATIME.
func lockedFlags(fs unix.Statfs_t) uintptr {
	flags := uintptr(fs.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME)
	if fs.Flags&unix.ST_RELATIME != 0 {
		flags |= unix.MS_RELATIME
	}
	return flags
}

func probeFuse(base string) error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return step(StepFuseOpen, err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, os.Getuid(), os.Getgid())
	return step(StepFuseMount, unix.Mount("coracle", base, "fuse", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RDONLY, options))
}

func probeOverlay(base string) error {
	if err := makeDirs(base, "lower", "upper", "work", "merged"); err != nil {
		return err
	}
	if err := step(StepScratch, os.Rename(base+"/file", base+"/lower/file")); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work,userxattr", base)
	if err := step(StepOverlay, unix.Mount("overlay", base+"/merged", "overlay", 0, options)); err != nil {
		return err
	}
	for _, err := range []error{
		os.WriteFile(base+"/merged/file", []byte("copied up"), 0o644),
		os.WriteFile(base+"/merged/new", nil, 0o644),
		os.Remove(base + "/merged/file"),
	} {
		if err != nil {
			return step(StepOverlayUse, err)
		}
	}
	return nil
}

// probeRoot makes a copy of the tree the root, as oci does it, and tries a user
// namespace in there.
func (r *probeResult) probeRoot(base string) error {
	if err := makeDirs(base, "root"); err != nil {
		return err
	}
	root := base + "/root"
	if err := step(StepBind, unix.Mount("/", root, "", unix.MS_BIND|unix.MS_REC, "")); err != nil {
		return err
	}
	if err := step(StepPivot, unix.Chdir(root)); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err == nil {
		if err := step(StepPivot, unix.Unmount(".", unix.MNT_DETACH)); err != nil {
			return err
		}
	} else {
		r.Moved = true
		if err := step(StepMove, unix.Mount(".", "/", "", unix.MS_MOVE, "")); err != nil {
			return err
		}
		if err := step(StepMove, unix.Chroot(".")); err != nil {
			return err
		}
	}
	p := Process{Exe: "/proc/self/exe", Args: []string{"coracle", "x", "probe", "nothing"}, Flags: unix.CLONE_NEWUSER,
		Files: []*os.File{os.Stdin, os.Stderr, os.Stderr}}
	if child, err := p.Start(); err == nil {
		_, err = child.Wait()
		r.Nests = err == nil
	}
	return nil
}

// probeRanges gives a file to the highest id of the map that Start installed.
func probeRanges(base string) error {
	uids, err := Host(nil).readMap("proc/self/uid_map")
	if err != nil {
		return err
	}
	last := uids[len(uids)-1]
	file := filepath.Join(base, strconv.Itoa(len(uids)))
	if err := step(StepScratch, os.WriteFile(file, nil, 0o644)); err != nil {
		return err
	}
	return step(StepChown, os.Lchown(file, int(last.Inside+last.Count-1), 0))
}
