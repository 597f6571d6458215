package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/coracle-runtime/coracle/overlay"
	"golang.org/x/sys/unix"
)

// builder puts the container's root together.
//
// Every filesystem of the root is mounted over "/", on top of the one before.
// The process's own root stays below them all, so that every path of the host
// can still be bound; "/.." leads to the newest. No directory of the host is
// needed, used or hidden.
//
// Runs in: x init, inside the new user and mount namespaces. The kernel makes
// shared mounts slaves when it copies them for a new user namespace: nothing
// done here reaches the host.
type builder struct {
	in      *initProcess
	root    int // descriptor of the container's root, on top of the stack
	stacked int // mounts on top of the host's root
}

// assemble makes everything below "/" that is no Mount.
func (b *builder) assemble() error {
	root := &b.in.plan.Root
	if root.Image != nil {
		return b.assembleImage(root)
	}
	if b.in.keeperFD >= 0 {
		// A guard that is gone already cannot be helped.
		handOver(b.in.keeperFD, -1)
		unix.Close(b.in.keeperFD)
	}
	return b.assembleDir(root)
}

// baseFlags are those of the root's own filesystems. Device nodes never work
// in a user namespace.
func (b *builder) baseFlags() uintptr {
	flags := uintptr(unix.MS_NODEV)
	if b.in.plan.Process.NoNewPrivs {
		flags |= unix.MS_NOSUID
	}
	return flags
}

func (b *builder) assembleImage(root *Root) error {
	if err := b.mountFUSE(root.Image); err != nil {
		return err
	}
	if root.Write == WriteTmpfs {
		return b.writable(nil)
	}
	return nil
}

// mountFUSE mounts the image and hands the connection to x fuse. The first
// access waits until x fuse answers.
func (b *builder) mountFUSE(image *Squashfs) error {
	// The kernel takes only a descriptor that was opened in the user namespace
	// which mounts it (EINVAL otherwise).
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fuseError("open /dev/fuse", err)
	}
	options := "fd=" + strconv.Itoa(dev) + ",rootmode=40000,user_id=" + strconv.Itoa(unix.Getuid()) +
		",group_id=" + strconv.Itoa(unix.Getgid()) + ",allow_other,default_permissions,max_read=1048576"
	if err := b.stack(image.Path, "fuse.coracle", b.baseFlags()|unix.MS_RDONLY, options); err != nil {
		unix.Close(dev)
		return fuseError("mount fuse", err)
	}
	err = handOver(b.in.keeperFD, dev)
	// As long as one copy of the descriptor is open, the kernel waits for an
	// answer: had we kept ours, the death of x fuse would hang the container.
	unix.Close(dev)
	unix.Close(b.in.keeperFD)
	if err != nil {
		return &StepError{Step: "hand /dev/fuse to x fuse", Err: err}
	}
	return nil
}

func fuseError(step string, err error) error {
	e := &FUSEError{Step: step}
	errors.As(err, &e.Errno)
	return e
}

// stack mounts a filesystem on top of the root made so far, and opens its root.
func (b *builder) stack(source, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, "/", fstype, flags, data); err != nil {
		return err
	}
	return b.openTop()
}

func (b *builder) openTop() error {
	b.stacked++
	fd, err := unix.Open("/..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if b.root >= 0 {
		unix.Close(b.root)
	}
	b.root = fd
	return nil
}

// writable stacks a tmpfs, and an overlay with it as the upper layer over the
// root made so far. Entries are made in the upper layer.
func (b *builder) writable(entries []Entry) error {
	lower, err := unix.FcntlInt(uintptr(b.root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return &StepError{Step: "keep the lower layer", Err: err}
	}
	defer unix.Close(lower)
	size := ""
	if mb := b.in.plan.Root.TmpfsMB; mb > 0 {
		size = ",size=" + strconv.Itoa(mb) + "m"
	}
	if err := b.stack("tmpfs", "tmpfs", b.baseFlags(), "mode=0755"+size); err != nil {
		return &StepError{Step: "mount tmpfs for writes", Err: err}
	}
	for _, name := range []string{"upper", "work"} {
		if err := unix.Mkdirat(b.root, name, 0o755); err != nil {
			return &StepError{Step: "make overlay directory " + name, Err: err}
		}
	}
	upper, err := unix.Openat(b.root, "upper", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &StepError{Step: "open upper layer", Err: err}
	}
	defer unix.Close(upper)
	if err := makeEntries(upper, lower, entries); err != nil {
		return err
	}
	top := fdPath(b.root)
	err = overlay.Mount("/", overlay.Options{
		Lower: []string{fdPath(lower)}, Upper: top + "/upper", Work: top + "/work", Flags: b.baseFlags(),
	})
	if err == nil {
		err = b.openTop()
	}
	if err != nil {
		return &StepError{Step: "make the root writable", Err: err}
	}
	return nil
}

// assembleDir binds a directory of the host. What it lacks comes from a tmpfs
// that is stacked below it: files are bound out of it, a missing mount point needs
// an overlay.
func (b *builder) assembleDir(root *Root) error {
	dir, err := unix.Open(root.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &StepError{Step: "open " + root.Dir, Err: err}
	}
	defer unix.Close(dir)
	missing, content := wanted(dir, root.Entries)
	extra := append(missing, content...)
	files := -1
	if len(extra) > 0 && root.Write != WriteTmpfs {
		if err := b.stack("tmpfs", "tmpfs", b.baseFlags(), "mode=0755"); err != nil {
			return &StepError{Step: "mount tmpfs for generated files", Err: err}
		}
		files, b.root = b.root, -1
		defer unix.Close(files)
	}
	if err := b.bindDir(root); err != nil {
		return err
	}
	switch {
	case root.Write == WriteTmpfs:
		return b.writable(extra)
	case root.Write == WriteNone && len(missing) > 0:
		err := b.skeleton(files, extra)
		if err == nil {
			return nil
		}
		b.in.note("no overlay over %s: %v", root.Dir, err)
	}
	return b.bindFiles(files, content)
}

func (b *builder) bindDir(root *Root) error {
	if err := b.stack(root.Dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return &StepError{Step: "bind " + root.Dir, Err: err}
	}
	flags := uint64(b.baseFlags())
	if root.Write == WriteNone {
		flags |= unix.MS_RDONLY
	}
	if err := setFlags(b.root, flags, true); err != nil {
		return &StepError{Step: "set mount flags of " + root.Dir, Err: err}
	}
	return nil
}

// wanted splits the entries into those that the directory lacks and those with
// content that must hide what is there.
func wanted(dir int, entries []Entry) (missing, content []Entry) {
	for _, e := range entries {
		fd, err := openBelow(dir, e.Path, unix.O_PATH|unix.O_NOFOLLOW)
		switch {
		case err != nil:
			missing = append(missing, e)
		case e.Content != nil:
			content = append(content, e)
		}
		if err == nil {
			unix.Close(fd)
		}
	}
	return missing, content
}

// skeleton stacks a read-only overlay: the entries, made in a tmpfs, over the
// root made so far.
func (b *builder) skeleton(files int, entries []Entry) error {
	if err := unix.Mkdirat(files, "skeleton", 0o755); err != nil {
		return err
	}
	top, err := unix.Openat(files, "skeleton", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	if err := makeEntries(top, b.root, entries); err != nil {
		return err
	}
	err = overlay.Mount("/", overlay.Options{Lower: []string{fdPath(top), fdPath(b.root)}, Flags: b.baseFlags()})
	if err != nil {
		return err
	}
	return b.openTop()
}

// makeEntries makes the entries below top. Directories that top lacks take
// their mode from below, so that the overlay shows it unchanged.
func makeEntries(top, below int, entries []Entry) error {
	for i := range entries {
		if err := makeEntry(top, below, &entries[i]); err != nil {
			return &StepError{Step: "make " + entries[i].Path, Err: err}
		}
	}
	return nil
}

func makeEntry(top, below int, e *Entry) error {
	name := strings.Trim(path.Clean("/"+e.Path), "/")
	if name == "" {
		return nil
	}
	for i, c := range name {
		if c != '/' {
			continue
		}
		if err := makeDirectory(top, below, name[:i]); err != nil {
			return err
		}
	}
	mode := e.Mode & 0o7777
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return makeDirectory(top, below, name)
	case unix.S_IFLNK:
		return ignoreExist(unix.Symlinkat(string(e.Content), top, name))
	case unix.S_IFREG, 0:
		return writeFile(top, name, mode, e.Content)
	}
	return fmt.Errorf("mode %o is no directory, file or link", e.Mode)
}

func makeDirectory(top, below int, name string) error {
	mode := uint32(0o755)
	var st unix.Stat_t
	if unix.Fstatat(below, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		mode = st.Mode & 0o7777
	}
	err := unix.Mkdirat(top, name, 0o755)
	if err == unix.EEXIST {
		return nil
	}
	if err == nil && mode != 0o755 {
		err = unix.Fchmodat(top, name, mode, 0)
	}
	return err
}

func writeFile(dir int, name string, mode uint32, content []byte) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode)
}

func ignoreExist(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// bindFiles binds generated files, made in a tmpfs, over those that are there.
func (b *builder) bindFiles(files int, entries []Entry) error {
	for i := range entries {
		e := &entries[i]
		if e.Mode&unix.S_IFMT == unix.S_IFLNK {
			b.in.note("cannot put a link over %s", e.Path)
			continue
		}
		if err := b.bindFile(files, strconv.Itoa(i), e); err != nil {
			return &StepError{Step: "bind generated " + e.Path, Err: err}
		}
	}
	return nil
}

func (b *builder) bindFile(files int, name string, e *Entry) error {
	if err := writeFile(files, name, e.Mode&0o7777, e.Content); err != nil {
		return err
	}
	target, err := openBelow(b.root, e.Path, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return unix.Mount(fdPath(files)+"/"+name, fdPath(target), "", unix.MS_BIND, "")
}
