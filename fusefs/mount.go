package fusefs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Mount mounts a FUSE file system on the directory dir, read-only, and returns
// the descriptor that [Server.Serve] answers. It does not wait for a server:
// whoever touches the mount does. Source is what /proc/mounts names as the
// device; flags are those of mount(2) besides MS_RDONLY. Errors are
// *os.PathError, of /dev/fuse or of dir.
//
// The caller must close its copy when it has handed the descriptor on: while
// one is open, the kernel waits for answers of a server that may be dead.
//
// allow_other admits the other users of the user namespace; without
// default_permissions the kernel would ask us about each access.
//
// Runs in: a process that has CAP_SYS_ADMIN in the user namespace of its mount
// namespace, as x init before pivot_root.
func Mount(dir, source string, flags uintptr) (*os.File, error) {
	// Not os.OpenFile, which would make the descriptor non-blocking.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	dev := os.NewFile(uintptr(fd), "/dev/fuse")
	// user_id must be an id that the namespace maps: 0 is not one where a
	// user is mapped to itself.
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other,default_permissions,max_read=%d",
		fd, os.Geteuid(), os.Getegid(), maxRequest)
	if err := unix.Mount(source, dir, "fuse.coracle", flags|unix.MS_RDONLY, options); err != nil {
		dev.Close()
		return nil, &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	return dev, nil
}
