package image

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is the root file system of an image, read one file at a time. Names are
// absolute and no link is followed, neither a last component nor one on the
// way: [Resolve] does that. Errors are *fs.PathError and match fs.ErrNotExist
// and the like.
type Root interface {
	Lstat(name string) (Stat, error)
	// ReadFile reads a regular file of at most limit bytes.
	ReadFile(name string, limit int64) ([]byte, error)
	Readlink(name string) (string, error)
	// ReadDir returns the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
}

// Stat is what a run needs to know of a file.
type Stat struct {
	Mode     uint32 // st_mode: file type and permission bits as in stat(2)
	UID, GID uint32
	Size     int64 // bytes
}

// IsDir tells whether the file is a directory.
func (s Stat) IsDir() bool { return s.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular tells whether the file is a regular one.
func (s Stat) IsRegular() bool { return s.Mode&unix.S_IFMT == unix.S_IFREG }

// IsSymlink tells whether the file is a symbolic link.
func (s Stat) IsSymlink() bool { return s.Mode&unix.S_IFMT == unix.S_IFLNK }

// maxLinks is the kernel's limit of links in one path walk (MAXSYMLINKS).
const maxLinks = 40

// Resolve follows the symbolic links in name as a process in the image would:
// absolute ones start at the image's root, and ".." stops there. Components
// that are missing are kept, so that the result can name a file to be made.
// More than 40 links are ELOOP.
func Resolve(r Root, name string) (string, error) {
	resolved, rest, links := "/", strings.Split(name, "/"), 0
	for len(rest) > 0 {
		component := rest[0]
		rest = rest[1:]
		if component == "" || component == "." {
			continue
		}
		next := path.Join(resolved, component) // ".." of the root is the root
		st, err := r.Lstat(next)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err != nil || !st.IsSymlink() {
			resolved = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: unix.ELOOP}
		}
		target, err := r.Readlink(next)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(target, "/") {
			resolved = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return resolved, nil
}

// readFile opens name in a root after following links.
func readFile(r Root, name string, limit int64) ([]byte, error) {
	resolved, err := Resolve(r, name)
	if err != nil {
		return nil, err
	}
	return r.ReadFile(resolved, limit)
}
