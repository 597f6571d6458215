package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Runtime starts containers.
type Runtime struct {
	Exe string // the program whose `x init` and `x fuse` are started; "" is /proc/self/exe
	Log *slog.Logger

	Stdin, Stdout, Stderr *os.File // nil is /dev/null

	// Image, when set, is read in place of Plan.Root.Image.Path, which then only
	// names it.
	Image *os.File
}

// Status is how a payload ended.
type Status struct {
	Code   int            // exit status; 128+n for signal n
	Signal syscall.Signal // 0, or the signal that killed it
	Start  time.Duration  // from the call of Run to the payload's first instruction
}

// Run carries out a Plan and waits for the payload. The error is about the
// container: *FUSEError where FUSE cannot be mounted, *ExecError for the
// payload's program, *StepError for all else in x init, *userns.StartError and
// *userns.HelperError for the namespaces. The end of ctx kills the
// container.
func (r *Runtime) Run(ctx context.Context, p *Plan) (Status, error) {
	// x init dies with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	p = r.choosePID(p)
	status, err := r.runOnce(ctx, p)
	var step *StepError
	if errors.As(err, &step) && step.pid && p.Namespaces.PIDOptional {
		// The probe was too hopeful: the kernel did refuse /proc.
		return r.runOnce(ctx, r.withoutPID(p))
	}
	return status, err
}

// choosePID takes the PID namespace out of a Plan where a new /proc would be
// refused.
func (r *Runtime) choosePID(p *Plan) *Plan {
	if !p.Namespaces.PID || !p.Namespaces.PIDOptional || procVisible() {
		return p
	}
	return r.withoutPID(p)
}

func (r *Runtime) withoutPID(p *Plan) *Plan {
	if p.Namespaces.PIDWarn != "" {
		r.Log.Warn(p.Namespaces.PIDWarn)
	}
	without := *p
	without.Namespaces.PID, without.Namespaces.Init = false, false
	return &without
}

func (r *Runtime) runOnce(ctx context.Context, p *Plan) (Status, error) {
	signals := newForwarder()
	defer signals.stop()
	c, err := r.start(p)
	if err != nil {
		return Status{}, err
	}
	defer c.close(ctx)
	signals.start(c.init)
	defer context.AfterFunc(ctx, func() { unix.Kill(c.init, unix.SIGKILL) })()

	err = c.untilStarted()
	if err == nil {
		if c.image {
			c.watchFUSE()
		}
		if p.Namespaces.PID && p.Namespaces.Init {
			go c.readReports(signals)
		}
	}
	raw, waitErr := signals.wait()
	if err == nil {
		err = waitErr
	}
	if err != nil {
		return Status{}, c.cause(err)
	}
	status := c.status(raw)
	if status.Code != 0 {
		c.mentionFUSE()
	}
	return status, nil
}

// container is a running container, from the caller's side.
type container struct {
	log    *slog.Logger
	begun  time.Time
	init   int      // process id of x init
	report *os.File // from x init
	keeper int      // process id of x fuse or x guard
	serve  *os.File // to and from the keeper; nil without one
	image  bool     // the keeper serves one

	took    time.Duration // until the payload was started
	ended   chan struct{} // closed when a PID 1 that stays has said all
	last    *uint32       // the payload's wait status, told by PID 1; after ended
	watched chan struct{} // closed when the end of x fuse was seen
	closing atomic.Bool   // the caller itself has shut the socket to the keeper
}

// close lets the keeper know that the container may go on without us; one that
// was to end gets no such word.
func (c *container) close(ctx context.Context) {
	c.report.Close()
	if c.serve == nil {
		return
	}
	c.closing.Store(true)
	fd := int(c.serve.Fd())
	if ctx.Err() == nil {
		unix.Sendto(fd, []byte{released}, unix.MSG_NOSIGNAL, nil)
	}
	// Closed by nobody else, and not while watchFUSE reads from its number: the
	// shutdown ends that read.
	unix.Shutdown(fd, unix.SHUT_RDWR)
	if c.watched != nil {
		<-c.watched
	}
	c.serve.Close()
	// It ends with the last process of the container, mostly before we know
	// of that. A zombie would stay where nobody adopts: a container whose PID
	// 1 does not wait.
	unix.Wait4(c.keeper, nil, unix.WNOHANG, nil)
}

// untilStarted reads x init's reports until the payload runs.
func (c *container) untilStarted() error {
	buf := make([]byte, maxFrame)
	for {
		f, err := receiveFrame(c.report, buf)
		if err == io.EOF {
			c.took = time.Since(c.begun)
			c.log.Debug("payload started", "after", c.took)
			return nil
		}
		if err != nil {
			return err
		}
		c.say(f)
		switch {
		case f.Fault != nil:
			return f.Fault.err()
		case f.Started:
			c.took = time.Since(c.begun)
			c.log.Debug("payload started by PID 1", "after", c.took)
			return nil
		}
	}
}

func (c *container) say(f *frame) {
	if f.Debug != "" {
		c.log.Debug(f.Debug)
	}
	if f.Warn != "" {
		c.log.Warn(f.Warn)
	}
}

// readReports listens to a PID 1 that stays.
func (c *container) readReports(signals *forwarder) {
	defer close(c.ended)
	buf := make([]byte, maxFrame)
	for {
		f, err := receiveFrame(c.report, buf)
		if err != nil {
			return
		}
		c.say(f)
		if f.Stopped {
			signals.payloadStopped()
		}
		if f.Status != nil {
			c.last = f.Status
		}
	}
}

// status prefers what PID 1 says: it cannot end by a signal itself.
func (c *container) status(raw unix.WaitStatus) Status {
	if c.ended != nil {
		<-c.ended
		if c.last != nil {
			raw = unix.WaitStatus(*c.last)
		}
	}
	s := Status{Code: exitCode(raw), Start: c.took}
	if raw.Signaled() {
		s.Signal = raw.Signal()
	}
	return s
}

// watchFUSE says so when the FUSE server ends before the payload.
func (c *container) watchFUSE() {
	c.watched = make(chan struct{})
	go func() {
		defer close(c.watched)
		if err := c.fuseError(); err != nil && !c.closing.Load() {
			c.log.Error(fmt.Sprintf("the image's file system is gone: %v; the payload gets I/O errors", err))
		}
	}()
}

// mentionFUSE lets watchFUSE finish where it has something to say: a payload
// that lost its pages may be dead before.
func (c *container) mentionFUSE() {
	if !c.image {
		return
	}
	fds := []unix.PollFd{{Fd: int32(c.serve.Fd())}}
	if n, err := unix.Poll(fds, 0); err == nil && n == 1 {
		<-c.watched
	}
}

// fuseError waits for the end of x fuse. It is nil after a regular one.
func (c *container) fuseError() error {
	f, err := receiveFrame(c.serve, make([]byte, maxFrame))
	switch {
	case err == io.EOF || errors.Is(err, unix.ECONNRESET):
		return errors.New("x fuse was killed")
	case errors.Is(err, os.ErrClosed), err != nil:
		return nil
	case f.Fault != nil:
		return f.Fault.err()
	}
	return nil
}

// cause prefers the word of x fuse where x init lost its file system.
func (c *container) cause(err error) error {
	lost := errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) ||
		errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EIO)
	if !c.image || !lost {
		return err
	}
	if fuse := c.fuseError(); fuse != nil {
		return fuse
	}
	return err
}
