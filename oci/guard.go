package oci

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Guard is the body of `coracle x guard`, which keeps a container without an
// image: should the caller be killed, it kills what the container has left.
//
// Runs in: x guard, in the caller's namespaces and a session of its own.
func Guard() error {
	nameProcess("coracle-guard")
	settleKeeper(keeperInitFD)
	_, userNS, err := takeOver(keeperInitFD)
	if err != nil {
		return err
	}
	unix.Close(keeperInitFD)
	g, err := newGuard(userNS)
	if err != nil {
		return err
	}
	g.watch()
	return nil
}

// handOver sends the container's user namespace and the FUSE connection, from
// x init to its keeper. dev is -1 without an image.
func handOver(socket, dev int) error {
	userNS, err := unix.Open("/proc/self/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /proc/self/ns/user: %w", err)
	}
	defer unix.Close(userNS)
	fds := []int{userNS}
	if dev >= 0 {
		fds = append(fds, dev)
	}
	return unix.Sendmsg(socket, []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
}

// errNobody says that x init ended before it had mounted anything.
var errNobody = errors.New("x init is gone")

// takeOver is the other end of handOver.
func takeOver(socket int) (dev, userNS int, err error) {
	oob := make([]byte, unix.CmsgSpace(2*4))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, -1, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return -1, -1, errNobody
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, -1, errors.New("receive descriptors: none came")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, -1, fmt.Errorf("receive descriptors: %w", err)
	}
	if len(fds) < 2 {
		return -1, fds[0], nil
	}
	return fds[1], fds[0], nil
}

// A guard ends the container's processes when the caller was killed. x init and
// the payload die with the caller by themselves (PR_SET_PDEATHSIG), what the
// payload has forked does not.
type guard struct {
	socket int    // to the caller
	userNS uint64 // inode number of the container's user namespace
}

// newGuard takes the namespace's descriptor and leaves it open, so that nobody
// else gets the number.
func newGuard(userNS int) (*guard, error) {
	var st unix.Stat_t
	if err := unix.Fstat(userNS, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	return &guard{socket: keeperCallerFD, userNS: st.Ino}, nil
}

// The caller's only message: it ends, and the container may outlive it.
const released = 'r'

// watch waits for the caller's end.
//
// Runs in: x guard, or x fuse beside the server.
func (g *guard) watch() {
	b := make([]byte, 1)
	n, err := readRetry(g.socket, b)
	if err == nil && n == 1 && b[0] == released {
		return
	}
	g.killAll()
}

// killAll kills every process in the container's user namespace and in those
// below it, until it finds none: a process may fork while we look.
func (g *guard) killAll() {
	for range 200 {
		if g.killOnce() == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (g *guard) killOnce() (found int) {
	proc, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return 0
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 1 || !g.holds(pid) {
			continue
		}
		if unix.Kill(pid, unix.SIGKILL) == nil {
			found++
		}
	}
	return found
}

// holds tells whether a process lives in the container's user namespace or in
// one below it. Zombies have none.
func (g *guard) holds(pid int) bool {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	for range 33 { // the kernel's limit on nesting
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Ino == g.userNS {
			unix.Close(fd)
			return true
		}
		parent, err := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		unix.Close(fd)
		if err != nil { // EPERM: above our own
			return false
		}
		fd = parent
	}
	unix.Close(fd)
	return false
}
