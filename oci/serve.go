package oci

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"github.com/coracle-runtime/coracle/fusefs"
	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

// The descriptors of a keeper.
const (
	keeperCallerFD = 3 + iota // socket to the caller: its release, our end
	keeperInitFD              // socket to x init: what it hands over
	keeperConfigFD            // x fuse: a serveConfig
	keeperImageFD             // x fuse: the image
)

// serveConfig is what x fuse has to know of the Plan.
type serveConfig struct {
	Image   Squashfs `json:"image"`
	Entries []Entry  `json:"entries,omitempty"`
}

// ServeFUSE is the body of `coracle x fuse`: it serves the image until the last
// process of the container's mount namespace is gone. Its own end is the signal
// to everybody else; an error is also told to the caller while it listens.
//
// Runs in: x fuse, in the caller's namespaces and a session of its own, without
// terminal. It must not touch a path below its own mount.
func ServeFUSE() error {
	nameProcess("coracle-fuse")
	settleKeeper(keeperImageFD)
	err := serve()
	f := &frame{Done: true}
	if err != nil && !errors.Is(err, errNobody) {
		f.Fault = newFault(err)
	}
	sendFrame(keeperCallerFD, f)
	return err
}

// settleKeeper makes the process independent of who started it.
func settleKeeper(lastFD int) {
	// Whatever the terminal or a batch system sends: the payload needs its
	// files until it has ended.
	signal.Ignore(unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTERM, unix.SIGTSTP, unix.SIGPIPE)
	for fd := keeperCallerFD; fd <= lastFD; fd++ {
		unix.CloseOnExec(fd)
	}
	closeInherited(lastFD + 1)
}

// closeInherited closes what the caller was started with: a pipe of which x fuse
// holds a copy would never end. The Go runtime's own descriptors, some of which
// exist by now, are close-on-exec.
func closeInherited(first int) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd < first {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

func serve() error {
	var c serveConfig
	if err := readValue(keeperConfigFD, &c); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	unix.Close(keeperConfigFD)
	file := os.NewFile(keeperImageFD, c.Image.Path)
	image, err := squashfs.NewReader(section{file, c.Image.Offset}, c.Image.Size, squashfs.ReaderOptions{ReadAhead: true})
	if err != nil {
		return fmt.Errorf("read image %s: %w", c.Image.Path, err)
	}
	server, err := fusefs.New(image, fusefs.Config{Owner: c.Image.Owner, Entries: entriesFor(c.Entries)})
	if err != nil {
		return fmt.Errorf("serve image %s: %w", c.Image.Path, err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	dev, userNS, err := takeOver(keeperInitFD)
	if err != nil {
		return err
	}
	unix.Close(keeperInitFD)
	if dev < 0 {
		return errors.New("serve image: x init sent no FUSE connection")
	}
	g, err := newGuard(userNS)
	if err != nil {
		return err
	}
	go g.watch()
	return server.Serve(dev)
}

// section reads a part of a file. Unlike io.SectionReader it needs no bounds:
// the reader has the size.
type section struct {
	file   *os.File
	offset int64
}

func (s section) ReadAt(p []byte, off int64) (int, error) { return s.file.ReadAt(p, s.offset+off) }

func entriesFor(entries []Entry) []fusefs.Entry {
	list := make([]fusefs.Entry, len(entries))
	for i, e := range entries {
		list[i] = fusefs.Entry{Path: e.Path, Mode: e.Mode, Content: e.Content}
	}
	return list
}
