package userns

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProbeAgreesWithStart holds the report against what processes of this host
// can do.
func TestProbeAgreesWithStart(t *testing.T) {
	r := Probe(t.Context(), ProbeOptions{System: Host(os.Getenv), Dirs: []string{t.TempDir()}})
	t.Logf("level %d\n%s", r.Level(), r)
	p := childProcess("true")
	p.Flags, p.Map = unix.CLONE_NEWUSER|unix.CLONE_NEWNS, ownIDs(0, 0)
	if _, _, err := run(p); (err == nil) != (r.Finding("userns").Status == OK) {
		t.Errorf("start: %v, report: %+v", err, r.Finding("userns"))
	}
	if r.Level() == 2 {
		return
	}
	for _, f := range r.Findings {
		if f.ID == "" || f.Title == "" || f.Text == "" || f.Cause == "probe-failed" || f.Cause == "unknown" {
			t.Errorf("finding %+v", f)
		}
	}
	if fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); (err == nil) != (r.Finding("fuse").Status == OK) {
		t.Errorf("open /dev/fuse: %v, report: %+v", err, r.Finding("fuse"))
	} else if err == nil {
		fuse.Close()
	}
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `"id":"userns","status":"ok"`) {
		t.Errorf("as JSON: %v, %s", err, b)
	}
}

const exitReadOnly = 3 // /proc/sys is, in most containers

// limitedChild lowers the limit of its own user namespace, which needs no
// privilege outside, and looks around.
func limitedChild(sysctl string) int {
	if err := os.WriteFile("/proc/sys/user/"+sysctl, []byte("0"), 0); err != nil {
		return exitReadOnly
	}
	json.NewEncoder(os.Stdout).Encode(Probe(ctxOfTests(), ProbeOptions{System: Host(os.Getenv)}).Findings)
	return 0
}

func TestProbeExplainsLimits(t *testing.T) {
	needUserns(t)
	for _, c := range []struct{ sysctl, id, says string }{
		{"max_user_namespaces", "userns", "user.max_user_namespaces is 0"},
		{"max_mnt_namespaces", "userns", "user.max_mnt_namespaces is 0"},
		{"max_pid_namespaces", "pid", "user.max_pid_namespaces is 0"},
	} {
		p := childProcess("limited", c.sysctl)
		p.Flags, p.Map = unix.CLONE_NEWUSER, ownIDs(0, 0)
		out, code, err := run(p)
		if code == exitReadOnly {
			needs(t, "a writable /proc/sys/user")
		}
		var findings []Finding
		if err := errors.Join(err, json.Unmarshal(out, &findings)); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(findings, func(f Finding) bool {
			return f.ID == c.id && f.Cause == "limit" && strings.Contains(f.Text, c.says) && f.Errno == "ENOSPC"
		}) {
			t.Errorf("%s: %+v", c.sysctl, findings)
		}
	}
}

// nestChild starts itself in a user namespace until the kernel refuses.
func nestChild(level string) int {
	n, _ := strconv.Atoi(level)
	p := childProcess("nest", strconv.Itoa(n+1))
	p.Flags, p.Map, p.Files = unix.CLONE_NEWUSER, ownIDs(0, 0), []*os.File{os.Stdin, os.Stdout, os.Stderr}
	proc, err := p.Start()
	var refused *StartError
	if errors.As(err, &refused) {
		f := Diagnose(err, Host(os.Getenv).ReadFacts(ctxOfTests()))
		f.Title = level
		if strings.Contains(err.Error(), unix.ENOSPC.Error()) {
			f.Cause = err.Error()
		}
		json.NewEncoder(os.Stdout).Encode([]Finding{*f})
		return 0
	}
	if err != nil {
		return 1
	}
	state, _ := proc.Wait()
	return state.ExitCode()
}

func TestDiagnoseNesting(t *testing.T) {
	needUserns(t)
	p := childProcess("nest", "1")
	p.Flags, p.Map = unix.CLONE_NEWUSER, ownIDs(0, 0)
	var got []Finding
	if err := json.Unmarshal(output(t, p), &got); err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	level, _ := strconv.Atoi(got[0].Title)
	if level > 33 || got[0].Cause != "limit" && got[0].Cause != "nesting" || got[0].Cause != "nesting" && !strings.Contains(got[0].Text, "nested 33 deep") {
		t.Errorf("at level %d: %+v", level, got[0])
	}
}

func TestProbeEndsHangingChild(t *testing.T) {
	needUserns(t)
	start := time.Now()
	got := ProbeOptions{System: Host(os.Getenv), Exe: "/proc/self/exe"}.run(t.Context(), "hang", 0, *ownIDs(0, 0))
	if took := time.Since(start); got.err == nil || took < probeLimit || took > 4*probeLimit {
		t.Errorf("%v after %v", got.err, took)
	}
}

func TestReportLevel(t *testing.T) {
	for want, findings := range [][]Finding{{{Status: OK}, {Status: Info}}, {{Status: Info}, {Status: Warn}}, {{Status: Fail}, {Status: Warn}}} {
		if got := (Report{Findings: findings}).Level(); got != want {
			t.Errorf("level %d of %v, want %d", got, findings, want)
		}
	}
}
