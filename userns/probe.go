package userns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ProbeOptions says where facts come from and what to look at besides.
type ProbeOptions struct {
	System System
	Exe    string   // "" is this program; it has to hand "x probe NAME" to ProbeChild
	Dirs   []string // where programs of images will lie, such as the directory for sandboxes
}

// probeLimit is the time that one probe may take; usually it is some
// milliseconds, but a busy machine must not look like a broken one.
const probeLimit = 5 * time.Second

// Probe finds out what this host allows by doing it, each thing in a fresh
// process of this very executable: security modules decide by its path. It takes
// some fifty milliseconds and leaves nothing behind.
func Probe(ctx context.Context, o ProbeOptions) Report {
	if o.Exe == "" {
		o.Exe = "/proc/self/exe"
	}
	r := Report{Facts: o.System.ReadFacts(ctx)}
	results := o.runAll(ctx, r.Facts)
	r.addBasics(results)
	if r.Level() < 2 {
		r.addRest(results)
		r.addDirs(o.Dirs)
	}
	r.addFacts()
	r.Works = r.works(results)
	return r
}

// outcome is a probe that was made: how far it came.
type outcome struct {
	probeResult
	err error // of the start, or of an answer that never came
	ids uint64
}

// failed is the error that Diagnose understands, nil for success.
func (o outcome) failed() error {
	switch {
	case o.err != nil:
		return o.err
	case o.Step != "":
		return &StartError{Step: o.Step, Err: o.Errno}
	case o.Other != "":
		return errors.New(o.Other)
	}
	return nil
}

// probes are the namespaces that each of them is put into besides its own user
// and mount namespaces.
func probes() map[string]uintptr {
	return map[string]uintptr{"layout": 0, "pid": unix.CLONE_NEWPID, "fuse": 0, "overlay": 0, "root": 0, "ranges": 0,
		"uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC, "net": unix.CLONE_NEWNET, "cgroup": unix.CLONE_NEWCGROUP}
}

func (o ProbeOptions) runAll(ctx context.Context, f Facts) map[string]outcome {
	results := map[string]outcome{}
	var lock sync.Mutex // guards results
	var all sync.WaitGroup
	for name, flags := range probes() {
		all.Go(func() {
			var result outcome
			want := Want{Root: name == "ranges", Ranges: name == "ranges"}
			m, err := Choose(want, f.Caller)
			if err != nil {
				result.err = err
			} else {
				result = o.run(ctx, name, flags, m)
				result.ids = m.Count()
			}
			lock.Lock()
			defer lock.Unlock()
			results[name] = result
		})
	}
	all.Wait()
	return results
}

// run starts one probe and reads its answer.
func (o ProbeOptions) run(ctx context.Context, name string, flags uintptr, m Map) (result outcome) {
	answer, w, err := os.Pipe()
	if err != nil {
		return outcome{err: err}
	}
	defer answer.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		null = w // a Go program does not start without the first three descriptors
	} else {
		defer null.Close()
	}
	p := Process{Exe: o.Exe, Args: []string{"coracle", "x", "probe", name}, Files: []*os.File{null, w, null},
		Flags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | flags, Map: &m, Ambient: true}
	child, err := p.Start()
	w.Close()
	if err != nil {
		return outcome{err: err}
	}
	stop := context.AfterFunc(ctx, func() { child.Kill() })
	defer stop()
	timer := time.AfterFunc(probeLimit, func() { child.Kill() })
	defer timer.Stop()
	err = json.NewDecoder(answer).Decode(&result.probeResult)
	state, waitErr := child.Wait()
	if err != nil && waitErr == nil {
		result.err = fmt.Errorf("no answer within %v: %v", probeLimit, state)
	}
	return result
}

// find turns an outcome into a finding, ok as it says when there is nothing to
// complain about.
func (r *Report) find(o outcome, ok Finding) Finding {
	err := o.failed()
	if err == nil {
		ok.Status = OK
		return ok
	}
	if found := Diagnose(err, r.Facts); found != nil {
		return *found
	}
	ok.Status, ok.Cause, ok.Text = Warn, "probe-failed", err.Error()
	return ok
}

// addBasics is about what no container can do without.
func (r *Report) addBasics(results map[string]outcome) {
	layout := r.find(results["layout"], Finding{ID: "mounts", Title: "mounts", Text: "tmpfs, binds and read-only remounts work."})
	if layout.ID == "mounts" {
		r.Findings = append(r.Findings, Finding{ID: "userns", Status: OK, Title: "user namespaces", Text: "can be created and mapped."})
	}
	if layout.Cause == "probe-failed" {
		layout.Status = Fail
	}
	r.Findings = append(r.Findings, layout)
}

func (r *Report) addRest(results map[string]outcome) {
	for _, p := range []struct {
		name string
		ok   Finding
	}{
		{"root", Finding{ID: "root", Title: "root switch", Text: "pivot_root works."}},
		{"fuse", Finding{ID: "fuse", Title: "FUSE", Text: "can be mounted."}},
		{"overlay", Finding{ID: "overlay", Title: "kernel overlayfs", Text: "works with an upper directory in memory."}},
		{"pid", Finding{ID: "pid", Title: "--pid, --containall", Text: "/proc can be mounted."}},
		{"ranges", Finding{ID: "ids", Title: "more than one id", Text: fmt.Sprintf("%d ids can be mapped.", results["ranges"].ids)}},
	} {
		found := r.find(results[p.name], p.ok)
		switch {
		case p.name == "root" && found.Status == OK && results["root"].Moved:
			found.Text = "pivot_root is refused; a moved mount and chroot are used in its place."
		case found.ID != p.ok.ID: // a namespace that only this one needs
			found.ID, found.Title, found.Status = p.ok.ID, p.ok.Title, Warn
		}
		r.Findings = append(r.Findings, found)
	}
	r.addOptional(results)
}

// addOptional is about namespaces that have to be asked for.
func (r *Report) addOptional(results map[string]outcome) {
	var missing []string
	for _, p := range []struct {
		name, option string
		mount        Step // what only makes a fresh mount impossible: the outer one is bound
		fresh        string
	}{
		{"uts", "--uts, --hostname", "", ""}, {"ipc", "--ipc", StepMqueue, "a fresh /dev/mqueue"},
		{"net", "--net", StepSysfs, "a fresh /sys with --net"}, {"cgroup", "a cgroup namespace", StepCgroup, "a fresh /sys/fs/cgroup"},
	} {
		if err := results[p.name].failed(); err != nil {
			what := p.option
			if p.mount != "" && results[p.name].Step == p.mount {
				what = p.fresh
			}
			missing = append(missing, fmt.Sprintf("%s (%v)", what, err))
		}
	}
	found := Finding{ID: "namespaces", Status: OK, Title: "other namespaces", Text: "UTS, IPC, network and cgroup work."}
	if missing != nil {
		found.Status, found.Cause, found.Text = Info, "refused", "not here: "+strings.Join(missing, ", ")+"."
	}
	r.Findings = append(r.Findings, found)
}

// addDirs tells which directories programs cannot be executed from. access(2)
// knows about noexec for a file with the bit set.
func (r *Report) addDirs(dirs []string) {
	for _, dir := range dirs {
		file, err := os.CreateTemp(dir, ".coracle-probe-*")
		if err != nil {
			continue
		}
		chmodErr := file.Chmod(0o700)
		file.Close()
		accessErr := unix.Access(file.Name(), unix.X_OK)
		os.Remove(file.Name())
		if chmodErr == nil && accessErr == unix.EACCES {
			r.Findings = append(r.Findings, Finding{ID: "noexec", Status: Warn, Cause: "noexec", Title: "directory " + dir,
				Text:  "is mounted noexec: programs of images that are unpacked there do not start.",
				Cures: []Cure{{You, "name another directory:", []string{"export TMPDIR=/var/tmp     (or another one that is not noexec)"}}}})
		}
	}
}

// addFacts is about what no probe can show.
func (r *Report) addFacts() {
	f := r.Facts
	if n, ok := f.Limits["Max processes"]; ok && n < 256 && f.UID != 0 {
		r.Findings = append(r.Findings, Finding{ID: "nproc", Status: Warn, Cause: "nproc", Title: "processes",
			Text:  fmt.Sprintf("the limit is %d (RLIMIT_NPROC): containers and conversions may run into it.", n),
			Cures: []Cure{{You, "raise it as far as the hard limit goes:", []string{"ulimit -u $(ulimit -H -u)"}}}})
	}
	if n, ok := f.Limits["Max address space"]; ok {
		r.Findings = append(r.Findings, Finding{ID: "address-space", Status: Warn, Cause: "ulimit-v", Title: "address space",
			Text:  fmt.Sprintf("the limit is %d MiB (RLIMIT_AS): Go programs need more of it than of memory.", n>>20),
			Cures: []Cure{{You, "", []string{"ulimit -v unlimited"}}}})
	}
	if f.HidePID != "" && f.HidePID != "0" && f.HidePID != "off" {
		r.Findings = append(r.Findings, Finding{ID: "hidepid", Status: Info, Cause: "hidepid", Title: "/proc",
			Text: "is mounted with hidepid=" + f.HidePID + ": only your own processes and instances are listed."})
	}
}

// works is the summary: what can be done here, and how.
func (r *Report) works(results map[string]outcome) []string {
	if r.Level() == 2 {
		return []string{"Works here: pull, build from existing images, inspect; no container can be run."}
	}
	yes := func(ok bool, then, otherwise string) string {
		if ok {
			return then
		}
		return otherwise
	}
	is := func(id string) bool { return r.Finding(id).Status == OK }
	ids := uint64(1)
	if is("ids") {
		ids = results["ranges"].ids
	}
	return []string{fmt.Sprintf("Works here: run/exec (%s), writable overlay (%s), --fakeroot and OCI mode (ids: %d), --pid (%s), coracle in coracle (%s)",
		yes(is("fuse"), "fuse", "unpack"), yes(is("overlay"), "kernel", "fuse"), ids,
		yes(is("pid"), "yes", "degraded"), yes(results["root"].Nests, "yes", "no"))}
}
