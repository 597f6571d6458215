package fusefs

import (
	"fmt"
	"log"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// Config says how an image's tree is presented. It travels as JSON to the
// process that serves.
type Config struct {
	// Owner is the uid and gid of every file, as numbers of the user
	// namespace that holds the mount. Nil shows the image's own, of which
	// the kernel shows those that the namespace does not map as nobody's.
	Owner *[2]int `json:",omitempty"`
	// Entries are presented on top of the image's tree.
	Entries []Entry `json:",omitempty"`
	// TrustedXattrs lists names of trusted.* too. Only the initial user
	// namespace's administrator can read them; everybody else would be shown
	// names that getxattr(2) then denies to exist.
	TrustedXattrs bool `json:",omitempty"`
	// Log gets one warning when an image turns out to be damaged. Nil is silent.
	Log *slog.Logger `json:"-"`
}

// Server answers the kernel's requests for one image. It implements
// fuse.RawFileSystem.
type Server struct {
	fuse.RawFileSystem // answers ENOSYS to what Server does not define

	img     *squashfs.Reader
	info    squashfs.Info
	config  Config
	log     *slog.Logger
	added   synthetic
	damaged atomic.Bool // the warning has been given

	// What the kernel offered at INIT: to stop sending OPEN and OPENDIR.
	noOpen, noOpenDir bool
}

var _ fuse.RawFileSystem = (*Server)(nil)

// New prepares to serve img. It finds the places of the config's entries in the
// image's tree, and fails if one cannot be there.
func New(img *squashfs.Reader, c Config) (*Server, error) {
	s := &Server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		img:           img,
		info:          img.Info(),
		config:        c,
		log:           c.Log,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.present(c.Entries); err != nil {
		return nil, err
	}
	return s, nil
}

// collectPercent is how much the heap may grow before it is collected. What
// lives is the block cache and the buffers of requests in flight, which make
// hardly any garbage, so collecting earlier than Go's 100 is nearly free and
// keeps the process small. There is no limit of bytes on purpose: many readers
// of an image with large blocks would keep the collector running all the time
// to hold it (measured: three times the CPU).
const collectPercent = 50

// maxRequest is the largest READ that we ask the kernel for, in bytes: its own
// limit without the administrator's help.
const maxRequest = 1 << 20

// Serve answers requests from dev, a mounted /dev/fuse descriptor, which it
// takes over and closes. It returns nil when the mount is gone.
//
// Serve sets the garbage collector's target for the whole process, which it
// takes to be its own.
//
// Runs in: x fuse, outside of the mount namespace that holds the mount.
func (s *Server) Serve(dev int) error {
	collectLater()
	// os.OpenFile leaves descriptors that can be polled non-blocking; our
	// readers wait in read(2).
	if err := unix.SetNonblock(dev, false); err != nil {
		return fmt.Errorf("serve file system: %w", err)
	}
	server, err := fuse.NewServer(s, fmt.Sprintf("/dev/fd/%d", dev), s.options())
	if err != nil {
		// The only error here that go-fuse does not wrap.
		if strings.HasSuffix(err.Error(), fuse.ENODEV.String()) {
			return nil // the mount went before the first request was read
		}
		return fmt.Errorf("serve file system: %w", err)
	}
	server.Serve()
	return nil
}

// collectLater keeps the collector out of a container's start, when the heap is
// so small that Go would collect it several times (measured: 2 ms of 15).
func collectLater() {
	const whileStarting = 24 << 20 // bytes of heap at which it collects all the same
	debug.SetGCPercent(-1)
	before := debug.SetMemoryLimit(whileStarting)
	time.AfterFunc(time.Second, func() {
		debug.SetGCPercent(collectPercent)
		debug.SetMemoryLimit(before)
	})
}

func (s *Server) options() *fuse.MountOptions {
	return &fuse.MountOptions{
		// Read-ahead comes in the background, so this many blocks are
		// decoded at once at most.
		MaxBackground: min(max(4*runtime.GOMAXPROCS(0), 16), 128),
		// The kernel derives the size of reads from it, too.
		MaxWrite:                 maxRequest,
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		ExtraCapabilities:        fuse.CAP_NO_OPENDIR_SUPPORT,
		// Passthrough would count as a layer of stacking and so forbid a
		// container's own overlay on top of ours.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,
		// Splice moves pages of files; our answers lie in memory.
		DisableSplice: true,
		PanicHandler:  s.recovered,
		Logger:        log.New(logWriter{s.log}, "", 0),
	}
}

// Init is called when the kernel has told what it can do.
func (s *Server) Init(server *fuse.Server) {
	offered := server.KernelSettings().Flags64()
	s.noOpen = offered&fuse.CAP_NO_OPEN_SUPPORT != 0
	s.noOpenDir = offered&fuse.CAP_NO_OPENDIR_SUPPORT != 0
}

// String names the file system in go-fuse's messages.
func (s *Server) String() string { return "coracle" }

// recovered turns a bug of ours into an error of one request.
func (s *Server) recovered(cause any) fuse.Status {
	s.log.Error("panic while serving", "cause", cause, "stack", string(debug.Stack()))
	return fuse.EIO
}

// failed gives an error of the image to the kernel.
func (s *Server) failed(err error) fuse.Status {
	if s.damaged.CompareAndSwap(false, true) {
		s.log.Warn("the image is damaged; some files cannot be read", "cause", err)
	} else {
		s.log.Debug("read image", "cause", err)
	}
	return fuse.EIO
}

// logWriter brings go-fuse's lines into our log. They tell of requests that
// went while we worked on them, and of kernels newer than go-fuse.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	w.log.Debug("fuse", "line", strings.TrimSpace(string(line)))
	return len(line), nil
}
