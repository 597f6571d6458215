package fusefs

import (
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Open tells the kernel not to ask, if it knows how not to. Its caches are
// then kept from one open to the next, as the flags say otherwise.
func (s *Server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&fuse.O_ANYWRITE != 0 {
		return fuse.EROFS
	}
	if s.noOpen {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

// OpenDir does as Open.
func (s *Server) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s.noOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

// Read decodes straight into the reply. An error fails the request as a whole,
// see the package's traps.
func (s *Server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, status := s.node(in.NodeId)
	if !status.Ok() {
		return nil, status
	}
	switch {
	case n.is(unix.S_IFDIR):
		return nil, fuse.EISDIR
	case !n.is(unix.S_IFREG):
		return nil, fuse.EINVAL
	case n.made != nil:
		from := min(in.Offset, uint64(len(n.made.content)))
		to := min(from+uint64(len(buf)), uint64(len(n.made.content)))
		return fuse.ReadResultData(n.made.content[from:to]), fuse.OK
	case in.Offset >= n.in.Size:
		return fuse.ReadResultData(nil), fuse.OK
	}
	got, err := s.img.ReadAt(n.in, buf, int64(in.Offset))
	if err != nil && err != io.EOF {
		return nil, s.failed(err)
	}
	return fuse.ReadResultData(buf[:got]), fuse.OK
}
