package oci

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// open resolves a name of the container, symbolic links included, below its
// root.
func (b *builder) open(name string, flags int) (int, error) { return openBelow(b.root, name, flags) }

// openBelow opens a name as it would be found by a process whose root is the
// directory root.
func openBelow(root int, name string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	relative := strings.TrimLeft(name, "/")
	if relative == "" {
		relative = "."
	}
	for {
		fd, err := unix.Openat2(root, relative, &how)
		switch err {
		case unix.EAGAIN, unix.EINTR: // a rename or mount elsewhere raced with ".."
		case unix.ENOSYS, unix.EPERM: // before Linux 5.6, and in old seccomp profiles
			return walkBelow(root, name, flags)
		default:
			return fd, err
		}
	}
}

// maxLinks is the kernel's own limit for one name.
const maxLinks = 40

// walkBelow is openBelow by hand, one component at a time. It is safe because
// nobody changes the tree: the container has no process yet.
func walkBelow(root int, name string, flags int) (int, error) {
	done, rest := "/", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		component := rest[0]
		rest = rest[1:]
		switch component {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, component)
		last := len(rest) == 0
		if last && flags&unix.O_NOFOLLOW != 0 {
			done = next
			break
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(root, next[1:], buf)
		switch {
		case err == unix.EINVAL: // no link
			done = next
		case err != nil:
			return -1, err
		default:
			if links++; links > maxLinks {
				return -1, unix.ELOOP
			}
			target := string(buf[:n])
			if strings.HasPrefix(target, "/") {
				done = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		}
	}
	return unix.Openat(root, path.Join(".", done), flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}
