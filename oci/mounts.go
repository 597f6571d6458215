package oci

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// errNoTarget marks a mount whose target is not in the root.
var errNoTarget = errors.New("doesn't exist in container")

// mount carries out one Mount of the Plan, with its ways out.
func (b *builder) mount(m *Mount) error {
	err := b.mountOne(m)
	if err == nil {
		return nil
	}
	if m.Type == "proc" && b.in.plan.Namespaces.PID && isRefusal(err) {
		// The outer /proc would lie about the processes of a new PID
		// namespace: the caller starts again without one, if it may.
		return &StepError{Step: "mount proc on " + m.Target, Err: err, pid: true}
	}
	if m.Else != nil {
		b.in.note("mount %s on %s: %v; next: %s %s", m.Type, m.Target, err, m.Else.Type, m.Else.Source)
		return b.mount(m.Else)
	}
	switch {
	case errors.Is(err, errNoTarget) && !m.Optional && b.in.plan.Root.Write == WriteDirect:
		b.in.warn(fmt.Sprintf("Skipping mount %s [%s]: %s doesn't exist in container", m.Source, m.Tag, m.Target))
		return nil
	case m.Optional && m.Warn != "":
		b.in.warn(m.Warn)
		return nil
	case m.Optional:
		b.in.note("skipped mount of %s on %s: %v", m.Source, m.Target, err)
		return nil
	}
	return b.explain(m, err)
}

// isRefusal tells the kernel's "not here" from a broken plan.
func isRefusal(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENODEV)
}

func (b *builder) explain(m *Mount, err error) error {
	isBind := m.Type == "bind" || m.Type == "rbind"
	if isBind && errors.Is(err, unix.ENOENT) && !errors.Is(err, errNoTarget) {
		return fmt.Errorf("mount source %s doesn't exist", m.Source)
	}
	step := "mount " + m.Type + " on " + m.Target
	if isBind {
		step = "mount " + m.Source + " on " + m.Target
	}
	return &StepError{Step: step, Err: err}
}

func (b *builder) mountOne(m *Mount) error {
	if m.Type == "symlink" {
		return b.symlink(m)
	}
	if m.MakeDir != 0 {
		if err := makeSource(m.Source, m.MakeDir); err != nil {
			return err
		}
	}
	target, err := b.target(m)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if m.Type != "bind" && m.Type != "rbind" {
		return unix.Mount(m.Type, fdPath(target), m.Type, uintptr(m.Flags), m.Data)
	}
	recursive := m.Type == "rbind"
	if err := bind(m.Source, fdPath(target), &recursive); err != nil {
		return err
	}
	if m.Flags == 0 {
		return nil
	}
	// target still names what is now hidden below the mount.
	mounted, err := b.open(m.Target, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(mounted)
	return setFlags(mounted, m.Flags, recursive)
}

// makeSource makes a directory of the host with its parents, as the caller, for
// a bind that asks for it. The permissions do not depend on the umask.
func makeSource(name string, permissions uint32) error {
	err := unix.Mkdir(name, permissions)
	if err == unix.ENOENT && name != "/" {
		if err := makeSource(path.Dir(name), permissions); err != nil {
			return err
		}
		err = unix.Mkdir(name, permissions)
	}
	switch err {
	case nil:
		return unix.Chmod(name, permissions)
	case unix.EEXIST:
		return nil
	}
	return err
}

// bind tries again with the mounts below the source: where the namespace
// inherited such mounts, the kernel does not show what lies under them (EINVAL).
func bind(source, target string, recursive *bool) error {
	if !*recursive {
		err := unix.Mount(source, target, "", unix.MS_BIND, "")
		if err != unix.EINVAL {
			return err
		}
		*recursive = true
	}
	return unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
}

// target opens the mount point, and makes it first where the Plan says so.
func (b *builder) target(m *Mount) (int, error) {
	fd, err := b.open(m.Target, unix.O_PATH)
	if err == unix.ENOENT && m.Mkdir {
		if err := b.makeTarget(m); err != nil {
			return -1, err
		}
		fd, err = b.open(m.Target, unix.O_PATH)
	}
	if err == unix.ENOENT {
		return -1, errNoTarget
	}
	return fd, err
}

// makeTarget makes a mount point as the source needs it, and its parents.
func (b *builder) makeTarget(m *Mount) error {
	if err := b.makeParents(m.Target); err != nil {
		return err
	}
	parent, err := b.open(path.Dir(m.Target), unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	name := path.Base(m.Target)
	var st unix.Stat_t
	if m.Type == "bind" || m.Type == "rbind" {
		if err := unix.Stat(m.Source, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return writeFile(parent, name, 0o644, nil)
		}
	}
	return unix.Mkdirat(parent, name, 0o755)
}

func (b *builder) makeParents(name string) error {
	parent := path.Dir(name)
	if parent == "/" || parent == "." {
		return nil
	}
	fd, err := b.open(parent, unix.O_PATH)
	if err == nil {
		return unix.Close(fd)
	}
	if err != unix.ENOENT {
		return err
	}
	if err := b.makeParents(parent); err != nil {
		return err
	}
	above, err := b.open(path.Dir(parent), unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(above)
	return unix.Mkdirat(above, path.Base(parent), 0o755)
}

func (b *builder) symlink(m *Mount) error {
	if m.Mkdir {
		if err := b.makeParents(m.Target); err != nil {
			return err
		}
	}
	parent, err := b.open(path.Dir(m.Target), unix.O_PATH)
	if err == unix.ENOENT {
		return errNoTarget
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return ignoreExist(unix.Symlinkat(m.Symlink, parent, path.Base(m.Target)))
}

// setFlags adds flags to a mount, and to those below it. It can only add: what
// the namespace inherited stays locked.
func setFlags(fd int, flags uint64, recursive bool) error {
	if flags == 0 {
		return nil
	}
	attr := unix.MountAttr{Attr_set: mountAttr(flags)}
	at := uint(unix.AT_EMPTY_PATH)
	if recursive {
		at |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(fd, "", at, &attr)
	if err != unix.ENOSYS && err != unix.EPERM {
		return err
	}
	// Before Linux 5.12, and under Docker's seccomp profile: a remount, which
	// must repeat the locked flags or it is refused (EPERM). It cannot
	// recurse.
	return remount(fd, flags)
}

func remount(fd int, flags uint64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	return unix.Mount("", fdPath(fd), "", uintptr(flags|lockedFlags(st.Flags)|unix.MS_REMOUNT|unix.MS_BIND), "")
}

// flagNames pairs mount(2)'s flags with mount_setattr(2)'s and statfs(2)'s.
var flagNames = [...]struct{ mount, attr, statfs uint64 }{
	{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY, unix.ST_RDONLY},
	{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID, unix.ST_NOSUID},
	{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV, unix.ST_NODEV},
	{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC, unix.ST_NOEXEC},
	{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME, unix.ST_NODIRATIME},
}

func mountAttr(flags uint64) (attr uint64) {
	for _, f := range flagNames {
		if flags&f.mount != 0 {
			attr |= f.attr
		}
	}
	return attr
}

// lockedFlags are those of a mount that a remount repeats, the three atime modes
// included: they are locked as a whole.
func lockedFlags(statfs int64) (flags uint64) {
	for _, f := range flagNames {
		if uint64(statfs)&f.statfs != 0 {
			flags |= f.mount
		}
	}
	switch {
	case statfs&unix.ST_NOATIME != 0:
		flags |= unix.MS_NOATIME
	case statfs&unix.ST_RELATIME != 0:
		flags |= unix.MS_RELATIME
	default:
		flags |= unix.MS_STRICTATIME
	}
	return flags
}

// enter makes the assembled root the process's own, and lets go of the host's.
func (b *builder) enter() error {
	if err := unix.Fchdir(b.root); err != nil {
		return &StepError{Step: "enter the root", Err: err}
	}
	unix.Close(b.root)
	err := unix.PivotRoot(".", ".")
	switch err {
	case nil:
		// The old root lies over the new one now, and with it everything that
		// was stacked on it. The overlay keeps its layers by itself.
		for range b.stacked {
			if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
				return &StepError{Step: "let go of the host's root", Err: err}
			}
		}
	case unix.EPERM, unix.EINVAL, unix.ENOSYS:
		// Docker's seccomp profile has no pivot_root; the initramfs cannot be
		// pivoted from. The new root lies on top of the namespace's, so that
		// the kernel does not see a chroot here, and nested user namespaces
		// keep working.
		b.in.note("pivot_root: %v; using chroot", err)
		if err := unix.Chroot("."); err != nil {
			return &StepError{Step: "change root", Err: err}
		}
	default:
		return &StepError{Step: "pivot root", Err: err}
	}
	return unix.Chdir("/")
}
