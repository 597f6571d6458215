package image

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sandboxRoot is the root file system in a directory. Every name is opened by
// openat2 below the directory's descriptor; os.Root would refuse the absolute
// links that every root file system has.
type sandboxRoot struct{ dir *os.File }

var _ Root = sandboxRoot{}

func (r sandboxRoot) open(op, name string, flags uint64) (int, error) {
	relative := strings.TrimLeft(name, "/")
	if relative == "" {
		relative = "."
	}
	how := &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(r.dir.Fd()), relative, how)
		if err == unix.EINTR || err == unix.EAGAIN { // EAGAIN: something was renamed meanwhile
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: op, Path: name, Err: err}
		}
		return fd, nil
	}
}

func (r sandboxRoot) Lstat(name string) (Stat, error) {
	fd, err := r.open("lstat", name, unix.O_PATH)
	if err != nil {
		return Stat{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Stat{}, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return Stat{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size}, nil
}

func (r sandboxRoot) ReadFile(name string, limit int64) ([]byte, error) {
	// O_NONBLOCK: a FIFO of that name must not stop us.
	fd, err := r.open("open", name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkReadable(name, st.Mode().IsRegular(), st.Mode().IsDir(), st.Size(), limit); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errTooLarge(name, int64(len(data)), limit)
	}
	return data, err
}

func (r sandboxRoot) Readlink(name string) (string, error) {
	fd, err := r.open("readlink", name, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err == unix.ENOENT { // what readlinkat says of an empty name that is no link
		err = unix.EINVAL
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

func (r sandboxRoot) ReadDir(name string) ([]string, error) {
	fd, err := r.open("open", name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// checkReadable says why a file cannot be read whole.
func checkReadable(name string, regular, dir bool, size, limit int64) error {
	switch {
	case dir:
		return &fs.PathError{Op: "read", Path: name, Err: unix.EISDIR}
	case !regular:
		return &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("not a regular file: %w", fs.ErrInvalid)}
	case size > limit:
		return errTooLarge(name, size, limit)
	}
	return nil
}

func errTooLarge(name string, size, limit int64) error {
	return &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%d bytes are more than the %d expected: %w", size, limit, unix.EFBIG)}
}
