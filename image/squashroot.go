package image

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// squashRoot is the root file system in a squashfs image.
type squashRoot struct{ r *squashfs.Reader }

var _ Root = squashRoot{}

// inode walks from the root. The reader keeps inodes and directory blocks, so
// that walking again is cheap.
func (s squashRoot) inode(op, name string) (*squashfs.Inode, error) {
	in, err := s.r.Inode(s.r.Root())
	for component := range strings.SplitSeq(name, "/") {
		if err != nil {
			break
		}
		if component == "" || component == "." {
			continue
		}
		if in.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = unix.ENOTDIR
			break
		}
		var d squashfs.Dirent
		if d, err = s.r.Lookup(in, component); err == nil {
			in, err = s.r.Inode(d.Ref)
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return in, nil
}

func (s squashRoot) Lstat(name string) (Stat, error) {
	in, err := s.inode("lstat", name)
	if err != nil {
		return Stat{}, err
	}
	return Stat{Mode: in.Mode, UID: in.UID, GID: in.GID, Size: int64(in.Size)}, nil
}

func (s squashRoot) ReadFile(name string, limit int64) ([]byte, error) {
	in, err := s.inode("open", name)
	if err != nil {
		return nil, err
	}
	kind := in.Mode & unix.S_IFMT
	if err := checkReadable(name, kind == unix.S_IFREG, kind == unix.S_IFDIR, int64(in.Size), limit); err != nil {
		return nil, err
	}
	data := make([]byte, in.Size)
	n, err := s.r.ReadAt(in, data, 0)
	if n < len(data) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

func (s squashRoot) Readlink(name string) (string, error) {
	in, err := s.inode("readlink", name)
	if err != nil {
		return "", err
	}
	if in.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: unix.EINVAL}
	}
	target, err := s.r.Readlink(in)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

func (s squashRoot) ReadDir(name string) ([]string, error) {
	in, err := s.inode("open", name)
	if err != nil {
		return nil, err
	}
	if in.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: unix.ENOTDIR}
	}
	var names []string
	err = s.r.ReadDir(in, 0, func(d squashfs.Dirent, _ int) bool {
		names = append(names, d.Name)
		return true
	})
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	slices.Sort(names)
	return names, nil
}
