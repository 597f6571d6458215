package oci

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarder passes the caller's signals on to x init, which is the payload or
// its PID 1.
type forwarder struct {
	pid     int
	signals chan os.Signal
	caught  chan struct{} // closed when all signals are caught
}

// newForwarder begins to catch signals. Package signal takes its time for that,
// which passes while the processes are started.
func newForwarder() *forwarder {
	f := &forwarder{signals: make(chan os.Signal, 64), caught: make(chan struct{})}
	go func() {
		signal.Notify(f.signals, forwardable()...)
		close(f.caught)
	}()
	return f
}

// start passes on what has come and what will come. What came before x init
// was there has not reached it by way of the terminal.
func (f *forwarder) start(pid int) {
	f.pid = pid
	for len(f.signals) > 0 {
		unix.Kill(pid, (<-f.signals).(syscall.Signal))
	}
	go func() {
		for s := range f.signals {
			f.forward(s.(syscall.Signal))
		}
	}()
}

func (f *forwarder) stop() {
	<-f.caught
	signal.Stop(f.signals)
	close(f.signals)
}

// forward leaves out what the payload has got by itself: the terminal signals
// its whole foreground process group. SingularityCE leaves out all signals then,
// and a TERM from kill(1) with them.
func (f *forwarder) forward(s syscall.Signal) {
	if !fromTerminal(s) || !foreground() {
		unix.Kill(f.pid, s)
	}
}

func fromTerminal(s syscall.Signal) bool {
	switch s {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGHUP, unix.SIGWINCH, unix.SIGCONT:
		return true
	}
	return false
}

// foreground tells whether the terminal's signals reach us and the payload.
func foreground() bool {
	tty, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer unix.Close(tty)
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// payloadStopped stops the caller after the payload, for the shell that waits
// for the caller: Ctrl-Z, suspend, a read from the terminal in the background. The
// caller's own TSTP stops nothing, so that a payload that handles it is not
// left alone. What no shell would continue goes on waiting.
func (f *forwarder) payloadStopped() {
	if !underJobControl() {
		return
	}
	// Sent to this thread: sent to the process, another one would take it, and
	// this one could run on for a moment.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP)
	// Continued. A shell continues the whole group, other senders us alone.
	unix.Kill(f.pid, unix.SIGCONT)
}

// underJobControl tells whether our parent is a shell with job control: in our
// session, in another process group.
func underJobControl() bool {
	parent := unix.Getppid()
	group, err := unix.Getpgid(parent)
	if err != nil || group == unix.Getpgrp() {
		return false
	}
	theirs, err := unix.Getsid(parent)
	ours, err2 := unix.Getsid(0)
	return err == nil && err2 == nil && ours == theirs
}

// wait returns the wait status of x init.
func (f *forwarder) wait() (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(f.pid, &status, unix.WUNTRACED, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case status.Stopped():
			f.payloadStopped()
		default:
			return status, nil
		}
	}
}
