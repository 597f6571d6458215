package overlay

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options says what to stack.
type Options struct {
	Lower []string // read-only directories, top first; at least one, two without Upper
	Upper string   // the writable directory; "" makes a read-only tree
	Work  string   // an empty directory on Upper's filesystem; set with Upper
	Flags uintptr  // MS_NOSUID, MS_NODEV, MS_RDONLY, …

	// TrustedXattr keeps overlayfs's own marks in trusted.overlay.* instead of
	// user.overlay.*. Only the real root may write those.
	TrustedXattr bool
}

// MountError says that the kernel refused the overlay. Errno is EINVAL for a
// filesystem that cannot be an upper layer, EPERM or ENODEV for a kernel that
// does not let users mount overlayfs (before 5.11).
type MountError struct {
	Target string
	Errno  syscall.Errno
}

func (e *MountError) Error() string {
	return fmt.Sprintf("mount overlay on %s: %s", e.Target, e.Errno)
}
func (e *MountError) Unwrap() error { return e.Errno }

// pageSize is the smallest limit of mount(2)'s data among the kernels we meet.
const pageSize = 4096

// Mount mounts the stack on target by the kernel's overlayfs.
//
// Runs in: a process that is alone in its mount namespace and holds
// CAP_SYS_ADMIN there.
func Mount(target string, o Options) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("mount overlay on %s: %w", target, err)
	}
	data := o.data()
	if len(data) >= pageSize || o.special() {
		named, closer, err := o.byDescriptor()
		if err != nil {
			return fmt.Errorf("mount overlay on %s: %w", target, err)
		}
		defer closer()
		data = named.data()
	}
	err := unix.Mount("overlay", target, "overlay", o.Flags, data)
	if errno, ok := err.(syscall.Errno); ok {
		return &MountError{target, errno}
	}
	return err
}

func (o Options) check() error {
	switch {
	case len(o.Lower) == 0:
		return errors.New("no lower layer")
	case o.Upper == "" && len(o.Lower) < 2:
		return errors.New("a single layer needs no overlay")
	case (o.Upper == "") != (o.Work == ""):
		return errors.New("an upper layer needs a work directory")
	}
	return nil
}

// data is mount(2)'s option string. Its paths must not need escaping.
func (o Options) data() string {
	var b strings.Builder
	b.WriteString("lowerdir=")
	for i, dir := range o.Lower {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(dir)
	}
	if o.Upper != "" {
		b.WriteString(",upperdir=")
		b.WriteString(o.Upper)
		b.WriteString(",workdir=")
		b.WriteString(o.Work)
	}
	if !o.TrustedXattr {
		b.WriteString(",userxattr")
	}
	return b.String()
}

// special tells whether a path has characters with a meaning in the options.
// An empty or relative one is odd enough to be looked up by ourselves, too.
func (o Options) special() bool {
	for _, dir := range append([]string{o.Upper, o.Work}, o.Lower...) {
		if strings.ContainsAny(dir, `:,\`) || dir != "" && dir[0] != '/' {
			return true
		}
	}
	return false
}

// byDescriptor opens every directory and names it by its descriptor. closer
// closes them; overlayfs keeps its own references.
func (o Options) byDescriptor() (named Options, closer func(), err error) {
	var fds []int
	closer = func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	name := func(dir string) string {
		if err != nil || dir == "" {
			return dir
		}
		fd, e := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if e != nil {
			err = &os.PathError{Op: "open", Path: dir, Err: e}
			return dir
		}
		fds = append(fds, fd)
		return "/proc/self/fd/" + strconv.Itoa(fd)
	}
	named = o
	named.Lower = make([]string, len(o.Lower))
	for i, dir := range o.Lower {
		named.Lower[i] = name(dir)
	}
	named.Upper, named.Work = name(o.Upper), name(o.Work)
	if err != nil {
		closer()
		return o, nil, err
	}
	return named, closer, nil
}
