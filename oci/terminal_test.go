package oci

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo terminal by hand: the controlling side, and the
// one that programs use.
func openTerminal(t *testing.T) (control, terminal *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	needs(t, "/dev/ptmx", err == nil)
	control = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { control.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return control, terminal
}

// session is a caller that leads a session on a terminal, or a shell there.
type session struct {
	t       *testing.T
	cmd     *exec.Cmd
	control *os.File
	lines   chan string
}

func startSession(t *testing.T, cmd *exec.Cmd) *session {
	t.Helper()
	control, terminal := openTerminal(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	s := &session{t: t, cmd: cmd, control: control, lines: make(chan string, 100)}
	go func() {
		scanner := bufio.NewScanner(control)
		for scanner.Scan() {
			s.lines <- strings.TrimRight(scanner.Text(), "\r")
		}
		close(s.lines)
	}()
	return s
}

func (s *session) send(text string) {
	s.t.Helper()
	if _, err := s.control.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// expect reads up to a line that contains text, and returns what came before.
func (s *session) expect(text string) (before []string) {
	s.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case line, ok := <-s.lines:
			if ok && strings.Contains(line, text) {
				return before
			}
			if !ok {
				s.t.Fatalf("the terminal ended before %q, after %q", text, before)
			}
			before = append(before, line)
		case <-limit:
			s.cmd.Process.Kill()
			s.t.Fatalf("no %q on the terminal, but %q", text, before)
		}
	}
}

func onEachInit(t *testing.T, args []string, test func(t *testing.T, p *Plan)) {
	needsContainers(t)
	for _, pid1 := range []bool{false, true} {
		t.Run(fmt.Sprintf("pid1=%v", pid1), func(t *testing.T) {
			p := planFor(t, sandbox(t), args...)
			if pid1 {
				needsProc(t)
				withPID(p, true)
			}
			test(t, p)
		})
	}
}

func TestControlCReachesThePayloadOnce(t *testing.T) {
	onEachInit(t, []string{"payload", "tty"}, func(t *testing.T, p *Plan) {
		s := startSession(t, caller(t, p))
		s.expect("ready")
		s.send("\x03")
		s.expect("interrupted")
		s.send("end\n")
		for _, line := range s.expect("line end") {
			if strings.Contains(line, "interrupted") {
				t.Error("the payload was interrupted twice")
			}
		}
		s.cmd.Wait()
		if code := s.cmd.ProcessState.ExitCode(); code != 5 {
			t.Errorf("code %d, want the payload's 5", code)
		}
	})
}

func TestControlCKillsThePayload(t *testing.T) {
	onEachInit(t, []string{"payload", "sleep", "20000"}, func(t *testing.T, p *Plan) {
		s := startSession(t, caller(t, p))
		s.expect("ready")
		s.send("\x03")
		s.cmd.Wait()
		status := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
		// The payload is a Go program: it dies of the signal by its own hand.
		if !status.Signaled() || status.Signal() != unix.SIGINT {
			t.Errorf("status %x, want death by SIGINT", status)
		}
	})
}

// shellMain is a shell with job control and one job: x shell PLANFILE.
func shellMain(args []string) int {
	signal.Ignore(unix.SIGTTOU)
	cmd := exec.Command("/proc/self/exe", "x", "caller", args[0])
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Foreground: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	job := cmd.Process.Pid
	for {
		var status unix.WaitStatus
		if _, err := unix.Wait4(job, &status, unix.WUNTRACED, nil); err == unix.EINTR {
			continue
		} else if err != nil {
			fmt.Println(err)
			return 1
		}
		unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp())
		if !status.Stopped() {
			fmt.Println("job ended", status.ExitStatus())
			return 0
		}
		fmt.Println("job stopped")
		var line string
		fmt.Scanln(&line) // fg
		unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, job)
		unix.Kill(-job, unix.SIGCONT)
	}
}

func shell(t *testing.T, p *Plan) *exec.Cmd {
	cmd := caller(t, p)
	cmd.Args[2] = "shell"
	return cmd
}

func TestControlZAndForeground(t *testing.T) {
	onEachInit(t, []string{"payload", "tty"}, func(t *testing.T, p *Plan) {
		s := startSession(t, shell(t, p))
		s.expect("ready")
		for range 3 {
			s.send("\x1a")
			s.expect("job stopped")
			s.send("fg\n")
			s.expect("fg") // the echo
			time.Sleep(50 * time.Millisecond)
			s.send("hello\n")
			s.expect("line hello")
		}
		s.send("end\n")
		s.expect("job ended 5")
		s.cmd.Wait()
	})
}

func TestSuspendGivesTheTerminalBack(t *testing.T) {
	onEachInit(t, []string{"payload", "stop"}, func(t *testing.T, p *Plan) {
		s := startSession(t, shell(t, p))
		s.expect("ready")
		s.expect("job stopped")
		s.send("fg\n")
		s.expect("continued")
		s.expect("job ended 0")
		s.cmd.Wait()
	})
}
