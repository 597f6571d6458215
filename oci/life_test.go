package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// eventually polls until a fact holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// marked is a caller under a program name of its own and with a word in the
// payload's arguments, so that all processes that come of it can be found.
type marked struct {
	*exec.Cmd
	exe, word string
}

func markedCaller(t *testing.T, p *Plan) *marked {
	t.Helper()
	m := &marked{exe: filepath.Join(t.TempDir(), "coracle"), word: fmt.Sprintf("word%d", time.Now().UnixNano())}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(self, m.exe); err != nil { // another file system
		b, err := os.ReadFile(self)
		if err == nil {
			err = os.WriteFile(m.exe, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p.Process.Args = append(p.Process.Args, m.word)
	m.Cmd = caller(t, p)
	m.Path = m.exe
	return m
}

// processes lists those that came of the caller: "pid command line".
func (m *marked) processes() (list []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		b, _ := os.ReadFile(dir + "/cmdline")
		line := strings.ReplaceAll(string(b), "\x00", " ")
		exe, _ := os.Readlink(dir + "/exe")
		if (exe == m.exe || strings.Contains(line, m.word)) && line != "" {
			list = append(list, filepath.Base(dir)+" "+line)
		}
	}
	return list
}

// find waits for a process whose command line contains one of the texts, the
// first if it can.
func (m *marked) find(t *testing.T, texts ...string) (pid int) {
	t.Helper()
	eventually(t, texts[0]+" runs", func() bool {
		processes := m.processes()
		for _, text := range texts {
			for _, p := range processes {
				if number, line, _ := strings.Cut(p, " "); strings.Contains(line, text) {
					pid, _ = strconv.Atoi(number)
					return true
				}
			}
		}
		return false
	})
	return pid
}

func (m *marked) gone(t *testing.T) {
	t.Helper()
	begun := time.Now()
	var left []string
	for time.Since(begun) < 5*time.Second {
		if left = m.processes(); len(left) == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("left behind: %q", left)
	for _, p := range left {
		number, _, _ := strings.Cut(p, " ")
		pid, _ := strconv.Atoi(number)
		unix.Kill(pid, unix.SIGKILL)
	}
}

// start retries while another goroutine's fork holds the program open for
// writing (go.dev/issue/22315).
func (m *marked) start(t *testing.T) {
	t.Helper()
	for {
		err := m.Start()
		if err == nil {
			return
		}
		if !errors.Is(err, unix.ETXTBSY) {
			t.Fatal(err)
		}
		again := *m.Cmd
		m.Cmd = &exec.Cmd{Path: again.Path, Args: again.Args, Stdout: again.Stdout, Stderr: again.Stderr, SysProcAttr: again.SysProcAttr}
		time.Sleep(5 * time.Millisecond)
	}
}

// startReady starts the caller and waits until the payload says that it is
// ready.
func (m *marked) startReady(t *testing.T) *bufio.Reader {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	m.Stdout = in
	if m.Stderr == nil {
		m.Stderr = os.Stderr
	}
	m.start(t)
	in.Close()
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		t.Fatalf("payload says %q, %v", line, err)
	}
	return lines
}

// Each process is killed at every stage of the start and later; what it takes
// along differs, that nothing stays does not.
func TestKillAtAnyStage(t *testing.T) {
	steps := 24
	if testing.Short() {
		steps = 4
	}
	for _, victim := range []string{"caller", "x init", "x fuse"} {
		for _, pid1 := range []bool{false, true} {
			if pid1 && !procVisible() {
				continue
			}
			t.Run(fmt.Sprintf("%s pid1=%v", victim, pid1), func(t *testing.T) {
				t.Parallel()
				needsFUSE(t)
				root := image(t)
				for step := range steps {
					p := planFor(t, root, "payload", "sleep", "3000")
					if pid1 {
						withPID(p, true)
					}
					m := markedCaller(t, p)
					m.start(t)
					pid := m.Process.Pid
					if victim != "caller" {
						pid = m.find(t, victim, "payload sleep") // what x init becomes
					}
					time.Sleep(time.Duration(step) * 700 * time.Microsecond)
					unix.Kill(pid, unix.SIGKILL)
					if victim == "x fuse" {
						// The payload goes on without files, if it has come so far.
						time.Sleep(20 * time.Millisecond)
						m.Process.Kill()
					}
					m.Wait()
					m.gone(t)
				}
			})
		}
	}
}

func TestKilledCallerTakesBackgroundProcessesAlong(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		m := markedCaller(t, planFor(t, root, "payload", "background", "60000", "/etc/hello", "", "60000"))
		m.startReady(t)
		m.Process.Kill()
		m.Wait()
		m.gone(t)
	})
}

func TestBackgroundProcessKeepsItsFiles(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		to := t.TempDir()
		p := planFor(t, root, "payload", "background", "300", "/etc/hello", "/tmp/copy", "0")
		p.Mounts = append(p.Mounts, Mount{Type: "bind", Source: to, Target: "/tmp"})
		m := markedCaller(t, p)
		m.startReady(t)
		if err := m.Wait(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(to + "/copy"); err == nil {
			t.Fatal("the background process was waited for")
		}
		eventually(t, "the background process writes", func() bool { _, err := os.Stat(to + "/copy"); return err == nil })
		if b, _ := os.ReadFile(to + "/copy"); string(b) != "hello\n" {
			t.Errorf("it read %q", b)
		}
		m.gone(t)
	})
}

func TestDeathOfServerIsSaid(t *testing.T) {
	needsFUSE(t)
	p := planFor(t, image(t), "payload", "background", "1", "/etc/hello", "", "500")
	m := markedCaller(t, p)
	var errs strings.Builder
	m.Stderr = &errs
	m.startReady(t)
	unix.Kill(m.find(t, "x fuse"), unix.SIGKILL)
	m.Wait() // the payload may die of missing pages, or not need any
	if !strings.Contains(errs.String(), "x fuse was killed") {
		t.Errorf("stderr %q", errs.String())
	}
	m.gone(t)
}

func TestServerOutlivesSignals(t *testing.T) {
	needsFUSE(t)
	m := markedCaller(t, planFor(t, image(t), "payload", "trap"))
	lines := m.startReady(t)
	server := m.find(t, "x fuse")
	for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTERM, unix.SIGTSTP} {
		unix.Kill(server, s)
	}
	if sid, _ := unix.Getsid(server); sid != server {
		t.Errorf("session %d of x fuse %d", sid, server)
	}
	if cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", server)); cwd != "/" {
		t.Errorf("directory %s", cwd)
	}
	unix.Kill(m.Process.Pid, unix.SIGTERM)
	if line, _ := lines.ReadString('\n'); line != "15\n" {
		t.Errorf("payload says %q", line)
	}
	m.Wait()
	m.gone(t)
}

func TestSignalsAreForwarded(t *testing.T) {
	needsContainers(t)
	for _, pid1 := range []bool{false, true} {
		if pid1 && !procVisible() {
			continue
		}
		p := planFor(t, sandbox(t), "payload", "trap")
		if pid1 {
			withPID(p, true)
		}
		m := markedCaller(t, p)
		m.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal
		lines := m.startReady(t)
		for _, s := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM} {
			unix.Kill(m.Process.Pid, s)
			if line, err := lines.ReadString('\n'); line != fmt.Sprintln(int(s)) {
				t.Errorf("payload got %q for %v, %v", line, s, err)
			}
		}
		rest, _ := io.ReadAll(lines)
		m.Wait()
		if m.ProcessState.ExitCode() != 7 || len(rest) != 0 {
			t.Errorf("code %d, further signals %q", m.ProcessState.ExitCode(), rest)
		}
	}
}

func TestIgnoredSignalStaysIgnored(t *testing.T) {
	needsContainers(t)
	needs(t, "nohup", exec.Command("nohup", "true").Run() == nil)
	p := planFor(t, sandbox(t), "payload", "look")
	cmd := caller(t, p)
	cmd.Args = append([]string{"nohup", "/proc/self/exe"}, cmd.Args[1:]...)
	self, _ := os.Readlink("/proc/self/exe")
	cmd.Args[1] = self
	cmd.Path, _ = exec.LookPath("nohup")
	r := finish(t, cmd)
	if !strings.Contains(r.stdout, `"SigIgn":"0000000000000001"`) {
		t.Errorf("%s %s", r.stdout, r.stderr)
	}
}
