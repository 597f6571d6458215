package userns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary its own child program, as coracle is.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "x" && os.Args[2] == "probe" {
		if os.Args[3] == "hang" {
			time.Sleep(time.Minute) // longer than probeLimit
		}
		os.Exit(ProbeChild(os.Args[3]))
	}
	if len(os.Args) > 2 && os.Args[1] == "x" {
		os.Exit(runChild(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

// needs skips a test that cannot run here; with CORACLE_TEST_STRICT=1 it fails.
func needs(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CORACLE_TEST_STRICT") == "1" {
		t.Fatalf("needs %s", what)
	}
	t.Skipf("needs %s", what)
}

// ctxOfTests is for children, which have no *testing.T.
func ctxOfTests() context.Context { return context.Background() }

// seen is what a child tells about itself.
type seen struct {
	PID, PPID, UID, EUID, GID, SID int
	Dir                            string
	UIDMap, GIDMap, Setgroups      string
	CapEff, CapAmb, CapPrm, SigBlk string
	NoFile                         uint64
	Descriptors                    []int
	Hostname                       string
}

// runChild is the other side of these tests.
func runChild(name string, args []string) int {
	switch name {
	case "tell":
		json.NewEncoder(os.Stdout).Encode(look())
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "true":
	case "write": // descriptor text …
		for i := 0; i+1 < len(args); i += 2 {
			fd, _ := strconv.Atoi(args[i])
			unix.Write(fd, []byte(args[i+1]))
		}
	case "exit":
		n, _ := strconv.Atoi(args[0])
		return n
	case "sleep":
		fmt.Println("ready")
		time.Sleep(time.Minute)
	case "limited":
		return limitedChild(args[0])
	case "nest":
		return nestChild(args[0])
	case "parent": // flags, uid inside
		runtime.LockOSThread()
		flags, _ := strconv.Atoi(args[0])
		p := childProcess("sleep")
		inside, _ := strconv.Atoi(args[1])
		p.Flags, p.Map, p.Ambient = unix.CLONE_NEWUSER|uintptr(flags), ownIDs(inside, inside), inside != 0
		p.ParentDeath, p.Files = syscall.SIGKILL, []*os.File{nil, os.Stdout, nil}
		proc, err := p.Start()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		proc.Wait()
	default:
		return 99
	}
	return 0
}

func look() seen {
	read := func(path string) string {
		b, _ := os.ReadFile(path)
		return strings.Join(strings.Fields(string(b)), " ")
	}
	s := seen{PID: os.Getpid(), PPID: os.Getppid(), UID: os.Getuid(), EUID: os.Geteuid(), GID: os.Getgid(),
		UIDMap: read("/proc/self/uid_map"), GIDMap: read("/proc/self/gid_map"), Setgroups: read("/proc/self/setgroups")}
	s.Dir, _ = os.Getwd()
	s.SID, _ = unix.Getsid(0)
	s.Hostname, _ = os.Hostname()
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		key, value, _ := strings.Cut(line, ":\t")
		switch key {
		case "CapEff":
			s.CapEff = value
		case "CapAmb":
			s.CapAmb = value
		case "CapPrm":
			s.CapPrm = value
		case "SigBlk":
			s.SigBlk = value
		}
	}
	var limit unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	s.NoFile = limit.Cur
	for fd := 0; fd < 64; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			s.Descriptors = append(s.Descriptors, fd)
		}
	}
	return s
}

// child prepares a Process that runs this test binary.
func childProcess(name string, args ...string) *Process {
	// The race detector otherwise sleeps for a second at every exit.
	env := append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	return &Process{Exe: "/proc/self/exe", Args: append([]string{"userns.test", "x", name}, args...), Env: env}
}

// ownIDs maps the caller's ids to inside.
func ownIDs(uid, gid int) *Map {
	return &Map{Method: Single,
		UID: []Extent{{uint32(uid), uint32(os.Geteuid()), 1}},
		GID: []Extent{{uint32(gid), uint32(os.Getegid()), 1}}}
}

// needUserns skips where this host refuses user namespaces; doctor's job is to
// tell why.
func needUserns(t testing.TB) {
	t.Helper()
	p := childProcess("true")
	p.Flags, p.Map = unix.CLONE_NEWUSER, ownIDs(os.Getuid(), os.Getgid())
	proc, err := p.Start()
	var refused *StartError
	if errors.As(err, &refused) {
		needs(t, "user namespaces: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	proc.Wait()
}

// output runs p and gives what it printed.
func output(t testing.TB, p *Process) []byte {
	t.Helper()
	out, code, err := run(p)
	if err != nil || code != 0 {
		t.Fatalf("%v: exit %d, %v, printed %q", p.Args, code, err, out)
	}
	return out
}

func run(p *Process) (out []byte, code int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	if p.Files == nil {
		p.Files = []*os.File{nil, w, os.Stderr}
	}
	proc, err := p.Start()
	w.Close()
	if err != nil {
		return nil, 0, err
	}
	out, err = io.ReadAll(r)
	state, waitErr := proc.Wait()
	return out, state.ExitCode(), errors.Join(err, waitErr)
}

func tell(t testing.TB, p *Process) (s seen) {
	t.Helper()
	if err := json.Unmarshal(output(t, p), &s); err != nil {
		t.Fatal(err)
	}
	return s
}
