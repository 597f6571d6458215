package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// forever is how long the kernel may keep an answer, in seconds.
const forever = 1 << 40

// Node ids need no table: they are the image's inode references, moved out of
// the way of 0 (no node) and 1 (the root), or places in the list of synthetic
// files. References are below 1<<48.
const (
	firstRef       = 2
	firstSynthetic = 1 << 62
)

// node is a file of the presented tree: one of the image's or a synthetic one.
type node struct {
	in    *squashfs.Inode // of the image, or nil
	made  *file           // synthetic, or nil
	extra *directory      // what is presented on top of an image's directory, or nil
}

// id is the kernel's name for an inode of the image.
func (s *Server) id(ref squashfs.Ref) uint64 {
	if ref == s.img.Root() {
		return fuse.FUSE_ROOT_ID
	}
	return uint64(ref) + firstRef
}

// node finds what a node id stands for.
func (s *Server) node(id uint64) (node, fuse.Status) {
	if id >= firstSynthetic {
		i := id - firstSynthetic
		if i >= uint64(len(s.added.files)) {
			return node{}, fuse.Status(unix.ESTALE)
		}
		f := s.added.files[i]
		return node{made: f, extra: f.dir}, fuse.OK
	}
	ref := s.img.Root()
	if id != fuse.FUSE_ROOT_ID {
		ref = squashfs.Ref(id - firstRef)
	}
	return s.inode(ref)
}

// inode is imageNode for an answer to the kernel.
func (s *Server) inode(ref squashfs.Ref) (node, fuse.Status) {
	n, err := s.imageNode(ref)
	if err != nil {
		return node{}, s.failed(err)
	}
	return n, fuse.OK
}

// imageNode is the image's inode with what is presented on top of it.
func (s *Server) imageNode(ref squashfs.Ref) (node, error) {
	in, err := s.img.Inode(ref)
	return node{in: in, extra: s.added.over[ref]}, err
}

func (n node) mode() uint32 {
	if n.made != nil {
		return n.made.mode
	}
	return n.in.Mode
}

// number is a node's inode number.
func (n node) number() uint64 {
	if n.made != nil {
		return n.made.ino
	}
	return uint64(n.in.Number)
}

func (n node) is(kind uint32) bool { return n.mode()&unix.S_IFMT == kind }

// fill writes a node's attributes.
func (s *Server) fill(n node, a *fuse.Attr) {
	if n.made != nil {
		s.fillMade(n.made, a)
	} else {
		s.fillInode(n, a)
	}
	a.Ino = n.number()
	a.Blocks = (a.Size + 511) / 512
	a.Atime, a.Ctime = a.Mtime, a.Mtime
	if o := s.config.Owner; o != nil {
		a.Owner = fuse.Owner{Uid: uint32(o[0]), Gid: uint32(o[1])}
	}
}

func (s *Server) fillInode(n node, a *fuse.Attr) {
	in := n.in
	a.Size = in.Size
	a.Mtime = uint64(in.ModTime)
	a.Mode = in.Mode
	a.Nlink = in.Nlink
	a.Owner = fuse.Owner{Uid: in.UID, Gid: in.GID}
	a.Rdev = uint32(in.Rdev) // the kernel's encoding equals the C library's in 32 bits
	if n.extra != nil {
		a.Nlink += uint32(n.extra.links)
	}
}

func (s *Server) fillMade(f *file, a *fuse.Attr) {
	a.Size = uint64(len(f.content))
	a.Mtime = uint64(max(s.info.ModTime.Unix(), 0))
	a.Mode = f.mode
	a.Nlink = 1
	if f.dir != nil {
		a.Nlink = uint32(2 + f.dir.links)
	}
}

// fillEntry writes the answer to a LOOKUP.
func (s *Server) fillEntry(n node, out *fuse.EntryOut) {
	if n.made != nil {
		out.NodeId = n.made.id
	} else {
		out.NodeId = s.id(n.in.Ref)
	}
	out.EntryValid, out.AttrValid = forever, forever
	s.fill(n, &out.Attr)
}
