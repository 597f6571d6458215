package fusefs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// GetXAttr is asked at every execve and every write for security.capability,
// and the kernel does not cache that there is none. ENOSYS from an image
// without any ends that.
func (s *Server) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	list, status := s.xattrs(header.NodeId)
	if !status.Ok() {
		return 0, status
	}
	for _, x := range list {
		if x.Name != name {
			continue
		}
		if len(dest) < len(x.Value) {
			return uint32(len(x.Value)), fuse.ERANGE
		}
		return uint32(copy(dest, x.Value)), fuse.OK
	}
	return 0, fuse.ENODATA
}

// ListXAttr leaves out names that the caller could not read.
func (s *Server) ListXAttr(_ <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	list, status := s.xattrs(header.NodeId)
	if !status.Ok() {
		return 0, status
	}
	size := 0
	for _, x := range list {
		if !s.config.TrustedXattrs && strings.HasPrefix(x.Name, "trusted.") {
			continue
		}
		if end := size + len(x.Name) + 1; end <= len(dest) {
			dest[size+copy(dest[size:], x.Name)] = 0
		}
		size += len(x.Name) + 1
	}
	if size > len(dest) {
		return uint32(size), fuse.ERANGE
	}
	return uint32(size), fuse.OK
}

func (s *Server) xattrs(id uint64) ([]squashfs.Xattr, fuse.Status) {
	if !s.info.Xattrs {
		return nil, fuse.ENOSYS
	}
	n, status := s.node(id)
	if !status.Ok() || n.made != nil {
		return nil, status
	}
	list, err := s.img.Xattrs(n.in)
	if err != nil {
		return nil, s.failed(err)
	}
	return list, fuse.OK
}
