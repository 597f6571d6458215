package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// lockedDir is a temporary directory whose lock tells others that it is in
// use: while the lock is held, removeUnlocked leaves it alone. The kernel
// frees the lock when the last process that inherited it is gone.
type lockedDir struct {
	path      string
	lock      *os.File
	committed bool
}

// newLockedDir makes a directory under the first of the names that is free.
func newLockedDir(name func() string) (*lockedDir, error) {
	for range 100 {
		path := name()
		err := os.Mkdir(path, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		f, err := os.Open(path)
		if err == nil && lockedAt(f, path) {
			return &lockedDir{path: path, lock: f}, nil
		}
		// Someone who cleans up took it between the two calls.
		if f != nil {
			f.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, os.Remove(path))
		}
	}
	return nil, fmt.Errorf("make a temporary directory: %w", fs.ErrExist)
}

// lockedAt locks a directory and tells whether it is still the one at path.
func lockedAt(f *os.File, path string) bool {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false
	}
	// Any other error: locks do not work here, and so nobody else cleans up.
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, there)
}

// commit renames the directory to dest. What is there is replaced if force is
// set.
func (d *lockedDir) commit(dest string, force bool) error {
	if err := renameNew(d.path, dest); !force || !errors.Is(err, fs.ErrExist) {
		d.committed = err == nil
		return err
	}
	// The two change places, so that dest is there at any time; what was there
	// goes away with this directory.
	err := unix.Renameat2(unix.AT_FDCWD, d.path, unix.AT_FDCWD, dest, unix.RENAME_EXCHANGE)
	if err == nil {
		return nil
	}
	if err := removeTree(dest); err != nil {
		return err
	}
	if err := os.Rename(d.path, dest); err != nil {
		return err
	}
	d.committed = true
	return nil
}

// Close removes the directory, unless it was renamed, and frees the lock.
func (d *lockedDir) Close() error {
	var err error
	if !d.committed {
		err = removeTree(d.path)
	}
	return errors.Join(err, d.lock.Close())
}
