package squashfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FS returns the image as an fs.FS that also has ReadDir, Stat, Lstat and
// ReadLink. Symbolic links are files of their own and are never followed, also
// not in the middle of a name. Sys of its FileInfo is the *Inode.
func (r *Reader) FS() fs.FS { return fileSystem{r} }

type fileSystem struct{ r *Reader }

var (
	_ fs.ReadDirFS  = fileSystem{}
	_ fs.StatFS     = fileSystem{}
	_ fs.ReadLinkFS = fileSystem{}
	_ io.ReaderAt   = (*file)(nil)
	_ io.Seeker     = (*file)(nil)
)

// find walks to a name.
func (f fileSystem) find(op, name string) (*Inode, error) {
	in, err := f.walk(name)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return in, nil
}

func (f fileSystem) walk(name string) (*Inode, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	in, err := f.r.Inode(f.r.Root())
	if err != nil || name == "." {
		return in, err
	}
	for part := range strings.SplitSeq(name, "/") {
		d, err := f.r.Lookup(in, part)
		if errors.Is(err, unix.ENOTDIR) {
			return nil, fs.ErrNotExist
		}
		if err != nil {
			return nil, err
		}
		if in, err = f.r.Inode(d.Ref); err != nil {
			return nil, err
		}
	}
	return in, nil
}

func (f fileSystem) Open(name string) (fs.File, error) {
	in, err := f.find("open", name)
	if err != nil {
		return nil, err
	}
	return &file{r: f.r, info: info{baseName(name), in}}, nil
}

func (f fileSystem) Stat(name string) (fs.FileInfo, error) {
	in, err := f.find("stat", name)
	if err != nil {
		return nil, err
	}
	return info{baseName(name), in}, nil
}

func (f fileSystem) Lstat(name string) (fs.FileInfo, error) { return f.Stat(name) }

func (f fileSystem) ReadLink(name string) (string, error) {
	in, err := f.find("readlink", name)
	if err != nil {
		return "", err
	}
	target, err := f.r.Readlink(in)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

func (f fileSystem) ReadDir(name string) ([]fs.DirEntry, error) {
	in, err := f.find("readdir", name)
	if err != nil {
		return nil, err
	}
	d := &file{r: f.r, info: info{baseName(name), in}}
	return d.ReadDir(-1)
}

func baseName(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// file is an open file or directory.
type file struct {
	r *Reader
	info
	off int64 // in a file's content, or a position of ReadDir
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return nil }

func (f *file) Read(p []byte) (int, error) {
	n, err := f.r.ReadAt(f.in, p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) { return f.r.ReadAt(f.in, p, off) }

func (f *file) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += int64(f.in.Size)
	}
	if offset < 0 || f.in.IsDir() {
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: fs.ErrInvalid}
	}
	f.off = offset
	return offset, nil
}

func (f *file) ReadDir(n int) ([]fs.DirEntry, error) {
	list := []fs.DirEntry{}
	err := f.r.ReadDir(f.in, int(f.off), func(d Dirent, next int) bool {
		list = append(list, entry{f.r, d})
		f.off = int64(next)
		return len(list) != n
	})
	if err != nil {
		return list, &fs.PathError{Op: "readdir", Path: f.name, Err: err}
	}
	if n > 0 && len(list) == 0 {
		return nil, io.EOF
	}
	return list, nil
}

// entry is a directory's entry.
type entry struct {
	r *Reader
	d Dirent
}

func (e entry) Name() string      { return e.d.Name }
func (e entry) IsDir() bool       { return e.d.Mode == unix.S_IFDIR }
func (e entry) Type() fs.FileMode { return fileMode(e.d.Mode) }

func (e entry) Info() (fs.FileInfo, error) {
	in, err := e.r.Inode(e.d.Ref)
	if err != nil {
		return nil, err
	}
	return info{e.d.Name, in}, nil
}

func (e entry) String() string { return fs.FormatDirEntry(e) }

// info is an inode under a name.
type info struct {
	name string
	in   *Inode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return int64(i.in.Size) }
func (i info) Mode() fs.FileMode  { return fileMode(i.in.Mode) }
func (i info) ModTime() time.Time { return time.Unix(int64(i.in.ModTime), 0) }
func (i info) IsDir() bool        { return i.in.IsDir() }
func (i info) Sys() any           { return i.in }
func (i info) String() string     { return fmt.Sprintf("%v %s", i.Mode(), i.name) }

// fileMode turns st_mode into Go's.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	}
	if mode&unix.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if mode&unix.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if mode&unix.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}
