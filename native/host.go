package native

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image"
)

// HostFiles is the file system of the calling process.
type HostFiles struct{}

var _ image.Root = HostFiles{}

// Lstat does not follow a link. A directory that an automounter would make is
// made: without that a home in an autofs map looks missing until it is used.
func (HostFiles) Lstat(name string) (image.Stat, error) {
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Lstat(name, &st) })
	if err == unix.ENOENT {
		// lstat does not trigger an automount of the last component; a walk through it does.
		err = ignoringEINTR(func() error { return unix.Lstat(name+"/.", &st) })
		if err == unix.ENOTDIR {
			err = unix.ENOENT
		}
	}
	if err != nil {
		return image.Stat{}, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return image.Stat{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size}, nil
}

// ReadFile reads a regular file of at most limit bytes.
func (HostFiles) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("not a regular file: %w", fs.ErrInvalid)}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &fs.PathError{Op: "read", Path: name, Err: unix.EFBIG}
	}
	return data, err
}

// Readlink returns a link's target as it is stored.
func (HostFiles) Readlink(name string) (string, error) { return os.Readlink(name) }

// ReadDir returns the names in a directory, sorted.
func (HostFiles) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(name)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
