package fusefs

import (
	"errors"
	"io/fs"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// maxName is the longest name of a SquashFS directory entry, in bytes.
const maxName = 256

// maxTarget is the longest symbolic link that the kernel takes from us, in bytes.
const maxTarget = unix.PathMax - 1

// Lookup answers for ever, also that a name is absent.
func (s *Server) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, status := s.node(header.NodeId)
	if !status.Ok() {
		return status
	}
	if !dir.is(unix.S_IFDIR) {
		return fuse.ENOTDIR
	}
	if len(name) > maxName {
		return fuse.Status(unix.ENAMETOOLONG)
	}
	child, status := s.child(dir, name)
	if status == fuse.ENOENT {
		out.EntryValid = forever // with node id 0: no such name
		return fuse.OK
	}
	if status.Ok() {
		s.fillEntry(child, out)
	}
	return status
}

func (s *Server) child(dir node, name string) (node, fuse.Status) {
	if dir.extra != nil {
		if f := dir.extra.children[name]; f != nil {
			return node{made: f, extra: f.dir}, fuse.OK
		}
	}
	if dir.in == nil {
		return node{}, fuse.ENOENT
	}
	d, err := s.img.Lookup(dir.in, name)
	if errors.Is(err, fs.ErrNotExist) {
		return node{}, fuse.ENOENT
	}
	if err != nil {
		return node{}, s.failed(err)
	}
	return s.inode(d.Ref)
}

// Forget has nothing to forget: node ids are places in the image.
func (s *Server) Forget(nodeid, nlookup uint64) {}

// GetAttr is asked for the root only, since LOOKUP tells the rest.
func (s *Server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, status := s.node(in.NodeId)
	if !status.Ok() {
		return status
	}
	out.AttrValid = forever
	s.fill(n, &out.Attr)
	return fuse.OK
}

// Readlink is asked once for each link: the kernel caches targets.
func (s *Server) Readlink(_ <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	n, status := s.node(header.NodeId)
	if !status.Ok() {
		return nil, status
	}
	if !n.is(unix.S_IFLNK) {
		return nil, fuse.EINVAL
	}
	if n.made != nil {
		return n.made.content, fuse.OK
	}
	target, err := s.img.Readlink(n.in)
	if err != nil {
		return nil, s.failed(err)
	}
	if len(target) > maxTarget {
		return nil, fuse.Status(unix.ENAMETOOLONG)
	}
	return []byte(target), fuse.OK
}

// StatFs tells what the kernel's own squashfs tells.
func (s *Server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	size := int64(s.info.BlockSize)
	out.Bsize, out.Frsize = uint32(size), uint32(size)
	out.Blocks = uint64((s.info.BytesUsed + size - 1) / size)
	out.Files = uint64(s.info.Inodes) + uint64(len(s.added.files))
	out.NameLen = maxName
	return fuse.OK
}
