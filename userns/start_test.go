package userns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestStartMapsOneID(t *testing.T) {
	needUserns(t)
	for _, inside := range []int{0, 1234} {
		p := childProcess("tell")
		p.Flags, p.Map = unix.CLONE_NEWUSER|unix.CLONE_NEWNS, ownIDs(inside, inside)
		got := tell(t, p)
		want := fmt.Sprintf("%d %d 1", inside, os.Geteuid())
		if got.UIDMap != want || got.UID != inside || got.GID != inside || got.Setgroups != "deny" {
			t.Errorf("inside as %d: %+v", inside, got)
		}
		if zero := strings.Trim(got.CapEff, "0") == ""; zero == (inside == 0) {
			t.Errorf("inside as %d: CapEff %s", inside, got.CapEff)
		}
	}
}

func TestStartRaisesAmbientCapabilities(t *testing.T) {
	needUserns(t)
	p := childProcess("tell")
	p.Flags, p.Map, p.Ambient = unix.CLONE_NEWUSER, ownIDs(1234, 1234), true
	got := tell(t, p)
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(last)))
	all := fmt.Sprintf("%016x", uint64(1)<<(n+1)-1)
	if got.CapAmb != all || got.CapEff != all || got.CapPrm != all {
		t.Errorf("ambient %s, effective %s, permitted %s, want all %s", got.CapAmb, got.CapEff, got.CapPrm, all)
	}
}

func TestStartCreatesNamespaces(t *testing.T) {
	needUserns(t)
	p := childProcess("tell")
	p.Flags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	p.Map, p.Setsid, p.Dir, p.ParentDeath = ownIDs(0, 0), true, "/proc", syscall.SIGKILL
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	got := tell(t, p)
	if got.PID != 1 || got.PPID != 0 || got.SID != 1 || got.Dir != "/proc" {
		t.Errorf("got %+v", got)
	}
}

// TestStartLeavesChildAsExecDoes compares with os/exec, which is the oracle for
// signal masks, limits and descriptors.
func TestStartLeavesChildAsExecDoes(t *testing.T) {
	out, err := exec.Command("/proc/self/exe", "x", "tell").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want seen
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := childProcess("tell")
	p.Files = []*os.File{null, w, null}
	proc, err := p.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var got seen
	if err := json.NewDecoder(r).Decode(&got); err != nil {
		t.Fatal(err)
	}
	proc.Wait()
	got.PID, want.PID = 0, 0
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("os/exec's child (-) and ours (+):\n%s", diff)
	}
}

// TestStartGivesLimitOfCaller asks a shell for the limit that the runtime hides.
func TestStartGivesLimitOfCaller(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		needs(t, "sh")
	}
	want, err := exec.Command(sh, "-c", "ulimit -n").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := output(t, &Process{Exe: sh, Args: []string{"sh", "-c", "ulimit -n"}, Env: os.Environ()})
	if string(got) != string(want) {
		t.Errorf("limit of open files: %q, want %q", got, want)
	}
}

// TestStartPlacesDescriptors crosses them over, in the way of each other and of
// the descriptors that Start itself uses.
func TestStartPlacesDescriptors(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		needs(t, "sh")
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	script := "echo 1 >&1; echo four >&4; echo nine >&9"
	p := &Process{Exe: sh, Args: []string{"sh", "-c", script}, Env: os.Environ()}
	p.Files = []*os.File{nil, w, w, nil, w, nil, nil, nil, nil, w}
	proc, err := p.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	proc.Wait()
	if string(got) != "1\nfour\nnine\n" {
		t.Errorf("got %q", got)
	}
}

// TestStartSwapsDescriptors gives two descriptors each other's number.
func TestStartSwapsDescriptors(t *testing.T) {
	var reads, writes [2]*os.File
	for i := range reads {
		var err error
		if reads[i], writes[i], err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
		defer reads[i].Close()
	}
	low, high := int(writes[0].Fd()), int(writes[1].Fd())
	p := childProcess("write", strconv.Itoa(low), "to high", strconv.Itoa(high), "to low")
	p.Files = make([]*os.File, max(low, high)+1)
	p.Files[low], p.Files[high] = writes[1], writes[0]
	proc, err := p.Start()
	writes[0].Close()
	writes[1].Close()
	if err != nil {
		t.Fatal(err)
	}
	proc.Wait()
	for i, want := range []string{"to low", "to high"} {
		if got, err := io.ReadAll(reads[i]); err != nil || string(got) != want {
			t.Errorf("pipe %d: %q, %v, want %q", i, got, err, want)
		}
	}
}

func TestStartExecutesDescriptor(t *testing.T) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := childProcess("exit", "7")
	p.Exe, p.File = "", f
	if _, code, err := run(p); err != nil || code != 7 {
		t.Errorf("exit %d, %v, want 7", code, err)
	}
}

func TestStartTellsFailedStep(t *testing.T) {
	needUserns(t)
	bad := ownIDs(0, 0)
	bad.UID[0].Outside++ // not the caller's own
	for _, c := range []struct {
		name   string
		change func(p *Process)
		step   Step
		errno  syscall.Errno
		root   bool // root may do it
	}{
		{"flags", func(p *Process) { p.Flags |= unix.CLONE_FS }, StepClone, unix.EINVAL, false},
		{"map", func(p *Process) { p.Map = bad }, StepUIDMap, unix.EPERM, false},
		{"ids", func(p *Process) { p.IDs = &IDs{7, 7} }, StepIDs, unix.EINVAL, false},
		{"dir", func(p *Process) { p.Dir = "/nowhere" }, StepDir, unix.ENOENT, false},
		{"exe", func(p *Process) { p.Exe = "/nowhere" }, StepExec, unix.ENOENT, false},
		{"not executable", func(p *Process) { p.Exe = "/proc/self/status" }, StepExec, unix.EACCES, false},
		{"direct", func(p *Process) {
			m := *p.Map
			m.Method, m.UID = Direct, []Extent{{0, 0, 10}}
			p.Map = &m
		}, StepUIDMap, unix.EPERM, true},
	} {
		if c.root && os.Geteuid() == 0 {
			continue
		}
		p := childProcess("true")
		p.Flags, p.Map = unix.CLONE_NEWUSER, ownIDs(0, 0)
		c.change(p)
		_, _, err := run(p)
		var got *StartError
		if !errors.As(err, &got) || got.Step != c.step || got.Err != c.errno {
			t.Errorf("%s: %v, want %s: %v", c.name, err, c.step, c.errno)
		}
	}
	var status unix.WaitStatus
	if pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a failed start left a child: %d, %v", pid, err)
	}
}

func TestStartJoins(t *testing.T) {
	needUserns(t)
	first := childProcess("sleep")
	first.Flags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS
	first.Map = ownIDs(0, 0)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first.Files = []*os.File{nil, w, os.Stderr}
	target, err := first.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer target.Wait()
	defer target.Kill()
	io.ReadFull(r, make([]byte, 6))

	p := childProcess("tell")
	for _, kind := range []string{"user", "pid", "uts", "mnt"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", target.Pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p.Join = append(p.Join, f)
	}
	if p.File, err = os.Open("/proc/self/exe"); err != nil {
		t.Fatal(err)
	}
	defer p.File.Close()
	p.ParentDeath = syscall.SIGKILL
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	got := tell(t, p)
	if got.PID > 100 || got.PPID != 0 || got.UID != 0 || strings.Trim(got.CapEff, "0") == "" {
		t.Errorf("joined as %+v, want a low PID and capabilities", got)
	}

	p.Join, p.File, p.Exe = p.Join[:2], nil, "/nowhere"
	_, _, err = run(p)
	var refused *StartError
	if !errors.As(err, &refused) || refused.Step != StepExec {
		t.Errorf("execute nothing in a joined PID namespace: %v", err)
	}
	p.Join = p.Join[1:]
	if _, _, err = run(p); os.Geteuid() != 0 && (!errors.As(err, &refused) || refused.Step != StepJoin) {
		t.Errorf("join a PID namespace without its user namespace: %v", err)
	}
}

// TestStartParentDeath kills a process that started another one, which holds
// the pipe open until it is dead too.
func TestStartParentDeath(t *testing.T) {
	needUserns(t)
	pid := strconv.Itoa(unix.CLONE_NEWPID)
	for _, args := range [][]string{{"0", "0"}, {pid, "0"}, {"0", "1234"}, {pid, "1234"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		parent := exec.Command("/proc/self/exe", append([]string{"x", "parent"}, args...)...)
		parent.Stdout, parent.Stderr = w, os.Stderr
		if err := parent.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, err := io.ReadFull(r, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		parent.Process.Kill()
		parent.Wait()
		r.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := r.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("flags and uid %v: the child outlives its parent: %v", args, err)
		}
	}
}

// TestStartInParallel is run with -race -count to find corruption of the shared
// stack, leaked descriptors and deadlocks with the garbage collector.
func TestStartInParallel(t *testing.T) {
	needUserns(t)
	stop := make(chan bool)
	var busy sync.WaitGroup
	busy.Add(1)
	go func() {
		defer busy.Done()
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
				time.Sleep(time.Millisecond)
			}
		}
	}()
	var starts sync.WaitGroup
	for i := range 8 {
		starts.Add(1)
		go func() {
			defer starts.Done()
			for n := range 4 {
				p := childProcess("exit", strconv.Itoa(10*i+n))
				p.Flags, p.Map, p.Ambient = unix.CLONE_NEWUSER|unix.CLONE_NEWNS, ownIDs(i, i), true
				if n == 2 {
					p.Exe = "/nowhere"
				}
				out, code, err := run(p)
				if n == 2 {
					var refused *StartError
					if !errors.As(err, &refused) || refused.Step != StepExec {
						t.Errorf("start of nothing: %v", err)
					}
				} else if err != nil || code != 10*i+n || len(bytes.TrimSpace(out)) != 0 {
					t.Errorf("exit %d, %v, printed %q, want %d", code, err, out, 10*i+n)
				}
			}
		}()
	}
	starts.Wait()
	close(stop)
	busy.Wait()
}
