package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// frame is one packet on the report socket, from x init to the caller. The
// socket keeps packets whole and in order; its end without a fault means that
// the payload runs.
type frame struct {
	Warn    string  `json:"warn,omitempty"`
	Debug   string  `json:"debug,omitempty"`
	Fault   *fault  `json:"fault,omitempty"`
	Started bool    `json:"started,omitempty"` // by a PID 1 that stays: the payload runs
	Stopped bool    `json:"stopped,omitempty"` // by a PID 1 that stays: the payload was stopped by a signal
	Done    bool    `json:"done,omitempty"`    // by x fuse: it ends by itself, and not as it was killed
	Status  *uint32 `json:"status,omitempty"`  // by a PID 1 that stays: the payload's wait status
}

// fault is an error on its way to another process.
type fault struct {
	Kind  string        `json:"kind,omitempty"` // fuse, exec, pid, or "" for all others
	Step  string        `json:"step"`
	Text  string        `json:"text,omitempty"`
	Errno syscall.Errno `json:"errno,omitempty"`
}

const (
	kindFUSE = "fuse"
	kindExec = "exec"
	kindPID  = "pid"

	maxFrame = 64 << 10
)

// newFault keeps what a caller may branch on.
func newFault(err error) *fault {
	f := &fault{Text: err.Error()}
	errors.As(err, &f.Errno)
	var fuse *FUSEError
	var exec *ExecError
	var step *StepError
	switch {
	case errors.As(err, &fuse):
		f.Kind, f.Step, f.Errno = kindFUSE, fuse.Step, fuse.Errno
	case errors.As(err, &exec):
		f.Kind, f.Step, f.Text = kindExec, exec.Name, exec.Reason
	case errors.As(err, &step):
		f.Step, f.Text = step.Step, step.Err.Error()
		if step.pid {
			f.Kind = kindPID
		}
	}
	return f
}

// err is the other half of newFault.
func (f *fault) err() error {
	switch f.Kind {
	case kindFUSE:
		return &FUSEError{Step: f.Step, Errno: f.Errno}
	case kindExec:
		return &ExecError{Name: f.Step, Reason: f.Text, Errno: f.Errno}
	}
	var cause error = errors.New(f.Text)
	if f.Errno != 0 && f.Text == f.Errno.Error() {
		cause = f.Errno
	} else if f.Errno != 0 {
		cause = remoteError{f.Text, f.Errno}
	}
	if f.Step == "" {
		return cause
	}
	return &StepError{Step: f.Step, Err: cause, pid: f.Kind == kindPID}
}

// remoteError keeps the errno of an error that crossed a process border.
type remoteError struct {
	text  string
	errno syscall.Errno
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.errno }

// StepError is a step of the container's start that failed inside x init.
type StepError struct {
	Step string // "mount proc on /proc", "enter the root"
	Err  error

	pid bool // the step would succeed without a PID namespace
}

func (e *StepError) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// FUSEError says that this host lets nobody mount FUSE in a user namespace. The
// caller may extract the image and run the same plan with Root.Dir.
type FUSEError struct {
	Step  string // "open /dev/fuse" or "mount fuse"
	Errno syscall.Errno
}

func (e *FUSEError) Error() string { return e.Step + ": " + e.Errno.Error() }
func (e *FUSEError) Unwrap() error { return e.Errno }

// ExecError says that the payload cannot be executed. Its text is the one that
// SingularityCE's users know.
type ExecError struct {
	Name   string // Args[0]
	Reason string
	Errno  syscall.Errno
}

func (e *ExecError) Error() string { return e.Reason }
func (e *ExecError) Unwrap() error { return e.Errno }

// sendFrame writes one packet. The error is the socket's: the caller is gone.
func sendFrame(socket int, f *frame) error {
	if len(f.Debug) > maxFrame/4 {
		f.Debug = f.Debug[:maxFrame/4]
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return unix.Sendto(socket, b, unix.MSG_NOSIGNAL, nil)
}

// receiveFrame waits for one packet; io.EOF when the other end is closed.
func receiveFrame(socket *os.File, buf []byte) (*frame, error) {
	n, err := readRetry(int(socket.Fd()), buf)
	if err != nil {
		return nil, os.NewSyscallError("read", err)
	}
	if n == 0 {
		return nil, io.EOF
	}
	f := &frame{}
	if err := json.Unmarshal(buf[:n], f); err != nil {
		return nil, fmt.Errorf("read report of x init: %w", err)
	}
	return f, nil
}

func readRetry(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// socketpair returns two connected packet sockets.
func socketpair(name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// valueFile holds v as JSON in memory, for a child to read. A pipe would
// block on plans of more than 64 KiB until the child runs.
func valueFile(name string, v any) (*os.File, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readValue reads what valueFile wrote; the file offset is shared and not used.
func readValue(fd int, v any) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	b := make([]byte, st.Size)
	for n := 0; n < len(b); {
		m, err := unix.Pread(fd, b[n:], int64(n))
		if err == nil && m == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("pread", err)
		}
		n += max(m, 0)
	}
	return json.Unmarshal(b, v)
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
