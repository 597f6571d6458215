package fusefs

import (
	"errors"
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// A directory's positions, which programs may keep (telldir) and come back to
// (seekdir) at any time: 0 and 1 are "." and "..", then come the synthetic
// files, then the image's at positions that its reader defines.
const firstName = 2

// lister takes one entry; position is where the next one stands. It returns
// false when the reply is full.
type lister interface {
	dots(name string, ino uint64, position uint64) bool
	made(name string, f *file, position uint64) bool
	image(d squashfs.Dirent, position uint64) bool
}

// ReadDir lists names only.
func (s *Server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.list(in, plainList{out})
}

// ReadDirPlus lists names with everything that LOOKUP would tell, so that
// `find` and `ls -l` ask no more.
func (s *Server) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.list(in, plusList{s, out})
}

func (s *Server) list(in *fuse.ReadIn, l lister) fuse.Status {
	dir, status := s.node(in.NodeId)
	if !status.Ok() {
		return status
	}
	if !dir.is(unix.S_IFDIR) {
		return fuse.ENOTDIR
	}
	at := in.Offset
	if at < firstName {
		if !s.listDots(dir, at, l) {
			return fuse.OK
		}
		at = firstName
	}
	at -= firstName
	var extra []string
	if dir.extra != nil {
		extra = dir.extra.names
	}
	for ; at < uint64(len(extra)); at++ {
		if !l.made(extra[at], dir.extra.children[extra[at]], firstName+at+1) {
			return fuse.OK
		}
	}
	if dir.in == nil {
		return fuse.OK
	}
	return s.listImage(dir, at-uint64(len(extra)), firstName+uint64(len(extra)), l)
}

// listDots lists the directory itself and the one above it.
func (s *Server) listDots(dir node, at uint64, l lister) bool {
	var parent uint64
	if dir.made != nil {
		parent = dir.made.dir.parent
	} else {
		parent = uint64(s.img.Parent(dir.in)) // of the root: itself
	}
	return (at > 0 || l.dots(".", dir.number(), 1)) && l.dots("..", parent, 2)
}

// listImage lists the image's files from the reader's position at on. The
// reader's position 0 is the presented position base.
func (s *Server) listImage(dir node, at, base uint64, l lister) fuse.Status {
	if at > math.MaxInt {
		return fuse.EINVAL
	}
	err := s.img.ReadDir(dir.in, int(at), func(d squashfs.Dirent, next int) bool {
		if dir.extra != nil && dir.extra.children[d.Name] != nil {
			return true // hidden by a synthetic file
		}
		return l.image(d, base+uint64(next))
	})
	if errors.Is(err, unix.EINVAL) {
		return fuse.EINVAL // a position that we never gave
	}
	if err != nil {
		return s.failed(err)
	}
	return fuse.OK
}

// plainList answers READDIR.
type plainList struct{ out *fuse.DirEntryList }

func (l plainList) dots(name string, ino, position uint64) bool {
	return l.out.AddDirEntry(fuse.DirEntry{Name: name, Ino: ino, Mode: unix.S_IFDIR, Off: position})
}

func (l plainList) made(name string, f *file, position uint64) bool {
	return l.out.AddDirEntry(fuse.DirEntry{Name: name, Ino: f.ino, Mode: f.mode, Off: position})
}

func (l plainList) image(d squashfs.Dirent, position uint64) bool {
	return l.out.AddDirEntry(fuse.DirEntry{Name: d.Name, Ino: uint64(d.Number), Mode: d.Mode, Off: position})
}

// plusList answers READDIRPLUS.
type plusList struct {
	s   *Server
	out *fuse.DirEntryList
}

// dots leaves the node id at 0, by which the kernel knows that it has these
// two already.
func (l plusList) dots(name string, ino, position uint64) bool {
	return l.out.AddDirLookupEntry(fuse.DirEntry{Name: name, Ino: ino, Mode: unix.S_IFDIR, Off: position}) != nil
}

func (l plusList) made(name string, f *file, position uint64) bool {
	out := l.out.AddDirLookupEntry(fuse.DirEntry{Name: name, Ino: f.ino, Mode: f.mode, Off: position})
	if out != nil {
		l.s.fillEntry(node{made: f, extra: f.dir}, out)
	}
	return out != nil
}

func (l plusList) image(d squashfs.Dirent, position uint64) bool {
	out := l.out.AddDirLookupEntry(fuse.DirEntry{Name: d.Name, Ino: uint64(d.Number), Mode: d.Mode, Off: position})
	if out == nil {
		return false
	}
	// An inode that cannot be read leaves its name in the list, with node id
	// 0: the error belongs to whoever looks it up.
	if n, status := l.s.inode(d.Ref); status.Ok() {
		l.s.fillEntry(n, out)
	}
	return true
}
