package image

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// newFile is a file that gets its name when it is complete. Until then it has
// none (O_TMPFILE), so that nothing stays behind even after SIGKILL; where the
// file system cannot do that (NFS, some FUSE) it has a hidden name, locked,
// by which the next writer of the same file knows that it is stale.
type newFile struct {
	*os.File
	path      string
	temporary string // its name meanwhile, or ""
	committed bool
}

// createFile starts the file that will be called path. Its mode is mode less
// the process's umask.
func createFile(path string, mode fs.FileMode) (*newFile, error) {
	dir := filepath.Dir(path)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err == nil {
		return &newFile{File: os.NewFile(uintptr(fd), path), path: path}, nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL) {
		return nil, &fs.PathError{Op: "create file in", Path: dir, Err: err}
	}
	return createNamed(path, mode)
}

// createNamed is createFile where files cannot be without a name.
func createNamed(path string, mode fs.FileMode) (*newFile, error) {
	removeStale(path)
	temporary := temporaryName(path)
	f, err := os.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, err
	}
	// Where locks do not work either, the file is just not cleaned up.
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return &newFile{File: f, path: path, temporary: temporary}, nil
}

// commit gives the file its name. With replace a file of that name is
// replaced; otherwise it is an error that matches fs.ErrExist.
func (n *newFile) commit(replace bool) error {
	if n.temporary == "" {
		to := n.path
		if replace {
			to = temporaryName(n.path)
		}
		if err := n.link(to); err != nil {
			return err
		}
		if !replace {
			n.committed = true
			return nil
		}
		n.temporary = to
	}
	rename := func() error { return os.Rename(n.temporary, n.path) }
	if !replace {
		rename = func() error { return renameNew(n.temporary, n.path) }
	}
	if err := rename(); err != nil {
		return err
	}
	n.committed = true
	return nil
}

// link gives a file without a name one. By descriptor alone that needs a
// capability before Linux 6.10, and otherwise /proc.
func (n *newFile) link(to string) error {
	self := fmt.Sprintf("/proc/self/fd/%d", n.Fd())
	err := unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Linkat(int(n.Fd()), "", unix.AT_FDCWD, to, unix.AT_EMPTY_PATH)
	}
	if err != nil {
		return &fs.PathError{Op: "link", Path: to, Err: err}
	}
	return nil
}

// renameNew renames without replacing, as far as the file system can.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		if _, statErr := os.Lstat(to); statErr == nil {
			err = unix.EEXIST
		} else {
			return os.Rename(from, to)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// Close discards the file unless it was committed.
func (n *newFile) Close() error {
	var err error
	if n.temporary != "" && !n.committed {
		err = os.Remove(n.temporary)
	}
	return errors.Join(n.File.Close(), err)
}

// temporaryFile is a file without a name in dir.
func temporaryFile(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC|unix.O_EXCL, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), filepath.Join(dir, "(unnamed)")), nil
	}
	f, err := os.CreateTemp(dir, ".coracle-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

const temporaryMark = ".coracle-"

// temporaryName is a hidden name beside path.
func temporaryName(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+temporaryMark+rand.Text()[:10])
}

// removeStale removes what killed processes left of earlier tries to write
// path: files and directories of temporaryName whose lock is free.
func removeStale(path string) {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+filepath.Base(path)+temporaryMark) {
			removeUnlocked(filepath.Join(dir, e.Name()))
		}
	}
}

// removeUnlocked removes a file or directory of ours whose owner is gone, and
// tells whether it did.
func removeUnlocked(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || int(st.Uid) != os.Geteuid() {
		return false
	}
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	return removeTree(path) == nil
}

// removeTree is os.RemoveAll that also removes directories that their owner
// made unwritable, as images have them.
func removeTree(path string) error {
	err := os.RemoveAll(path)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if d.IsDir() {
			// Before WalkDir reads it.
			return os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

// NoSpaceError is a full file system.
type NoSpaceError struct {
	Dir string
	Err error
}

func (e NoSpaceError) Error() string { return fmt.Sprintf("write in %s: %v", e.Dir, e.Err) }

// Unwrap returns the cause, unix.ENOSPC or unix.EDQUOT.
func (e NoSpaceError) Unwrap() error { return e.Err }

// Hint says where the room is missing.
func (e NoSpaceError) Hint() string {
	return "make room in " + e.Dir + ", or choose another place: the image's name, TMPDIR for temporary files, CORACLE_CACHEDIR for the cache"
}

// explainSpace names the directory of a failed write where there is no room.
func explainSpace(dir string, err error) error {
	var already NoSpaceError
	if errors.As(err, &already) {
		return err
	}
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, full) {
			return NoSpaceError{dir, full}
		}
	}
	return err
}
