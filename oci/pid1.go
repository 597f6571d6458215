package oci

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// stay forks the payload and remains as PID 1: it forwards signals, reaps what
// is left to it and ends with the payload, which ends everything else in the
// namespace. It returns only if the payload cannot be executed.
//
// The payload stays in the caller's process group, where the terminal finds
// it; PID 1 leaves that group, so that it forwards only what the caller sent to it
// alone and the payload sees a Ctrl-C once.
func (in *initProcess) stay(file string, args []string) error {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwardable()...)
	pid, err := syscall.ForkExec(file, args, &syscall.ProcAttr{
		Env:   in.plan.Process.Env,
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		signal.Stop(signals)
		return err
	}
	unix.Setpgid(0, 0)
	// A pipe that the payload closes has to be seen closed.
	for fd := range 3 {
		unix.Dup3(in.nullFD, fd, 0)
	}
	sendFrame(in.reportFD, &frame{Started: true})
	go func() {
		for s := range signals {
			unix.Kill(pid, s.(syscall.Signal))
		}
	}()
	status := in.reapUntil(pid)
	raw := uint32(status)
	sendFrame(in.reportFD, &frame{Status: &raw})
	os.Exit(exitCode(status))
	return nil
}

// reapUntil collects children, adopted ones too, until pid has ended.
func (in *initProcess) reapUntil(pid int) unix.WaitStatus {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, unix.WUNTRACED, nil)
		switch {
		case err == unix.EINTR:
		case err != nil, got == pid && !status.Stopped():
			return status
		case got == pid:
			sendFrame(in.reportFD, &frame{Stopped: true})
		}
	}
}

// exitCode is what a shell makes of a wait status.
func exitCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// forwardable lists the signals that are passed on to the payload. One that was
// ignored before us (nohup) stays ignored for the payload, too. Real-time
// signals are left out: os/signal needs 25 system calls to catch one.
func forwardable() []os.Signal {
	list := make([]os.Signal, 0, 16)
	for _, s := range []syscall.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
		unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR,
		unix.SIGXCPU, unix.SIGXFSZ,
	} {
		if !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}
