package oci

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/coracle-runtime/coracle/userns"
	"golang.org/x/sys/unix"
	"log/slog"
)

// start starts x init and x fuse, which then depend on each other only.
func (r *Runtime) start(p *Plan) (*container, error) {
	c := &container{log: r.Log, begun: time.Now()}
	if p.Namespaces.PID && p.Namespaces.Init {
		c.ended = make(chan struct{})
	}
	var toFUSE, toInit *os.File
	if p.Root.Image != nil {
		var err error
		if toFUSE, toInit, err = socketpair("fuse"); err != nil {
			return nil, err
		}
		defer toFUSE.Close()
		defer toInit.Close()
	}
	// x init first: it has more to do.
	if err := r.startInit(c, p, toFUSE); err != nil {
		return nil, err
	}
	if p.Root.Image != nil {
		if err := r.startFUSE(c, p, toInit); err != nil {
			c.init.Kill()
			c.init.Wait()
			c.report.Close()
			return nil, err
		}
	}
	r.Log.Debug("x init and x fuse started", "after", time.Since(c.begun))
	return c, nil
}

func (r *Runtime) exe() string {
	if r.Exe != "" {
		return r.Exe
	}
	return "/proc/self/exe"
}

// startInit starts x init in its namespaces. Descriptors that the caller
// inherited reach the payload under their own numbers (make's jobserver,
// process substitution): ours stand behind them.
func (r *Runtime) startInit(c *container, p *Plan, toFUSE *os.File) error {
	plan, err := valueFile("plan", p)
	if err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	defer plan.Close()
	ours, theirs, err := socketpair("report")
	if err != nil {
		return err
	}
	defer theirs.Close()
	args := []string{"coracle", "x", "init",
		"--plan-fd=" + strconv.Itoa(int(plan.Fd())), "--report-fd=" + strconv.Itoa(int(theirs.Fd()))}
	passed := []*os.File{plan, theirs}
	if toFUSE != nil {
		args = append(args, "--fuse-fd="+strconv.Itoa(int(toFUSE.Fd())))
		passed = append(passed, toFUSE)
	}
	if r.Log.Enabled(context.Background(), slog.LevelDebug) {
		args = append(args, "--debug")
	}
	files, closeCopies := r.files(passed)
	defer closeCopies()
	process := userns.Process{
		Exe: r.exe(), Args: args,
		Files: files,
		Flags: namespaceFlags(p.Namespaces), Map: &p.IDs,
		Ambient:     true,
		ParentDeath: unix.SIGKILL,
	}
	if c.init, err = process.Start(); err != nil {
		ours.Close()
		return err
	}
	c.report = ours
	return nil
}

// files puts passed at their own numbers and keeps what was inherited.
func (r *Runtime) files(passed []*os.File) (files []*os.File, closeCopies func()) {
	last := uintptr(2)
	for _, f := range passed {
		last = max(last, f.Fd())
	}
	files = make([]*os.File, last+1)
	files[0], files[1], files[2] = r.Stdin, r.Stdout, r.Stderr
	for _, f := range passed {
		files[f.Fd()] = f
	}
	var copies []*os.File
	for fd := uintptr(3); fd <= last; fd++ {
		if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 || files[fd] != nil {
			continue
		}
		// A copy, because an os.File closes its descriptor in the end.
		if dup, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			files[fd] = os.NewFile(uintptr(dup), "inherited")
			copies = append(copies, files[fd])
		}
	}
	return files, func() {
		for _, f := range copies {
			f.Close()
		}
	}
}

func namespaceFlags(n Namespaces) uintptr {
	flags := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWNS)
	for _, f := range []struct {
		wanted bool
		flag   uintptr
	}{{n.PID, unix.CLONE_NEWPID}, {n.IPC, unix.CLONE_NEWIPC}, {n.UTS, unix.CLONE_NEWUTS}, {n.Net, unix.CLONE_NEWNET}} {
		if f.wanted {
			flags |= f.flag
		}
	}
	return flags
}

// startFUSE starts x fuse, outside of all that.
func (r *Runtime) startFUSE(c *container, p *Plan, toInit *os.File) error {
	config, err := valueFile("fuse", serveConfig{Image: *p.Root.Image, Entries: p.Root.Entries})
	if err != nil {
		return fmt.Errorf("write configuration of x fuse: %w", err)
	}
	defer config.Close()
	image := r.Image
	if image == nil {
		if image, err = os.Open(p.Root.Image.Path); err != nil {
			return fmt.Errorf("open image: %w", err)
		}
		defer image.Close()
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	ours, theirs, err := socketpair("x fuse")
	if err != nil {
		return err
	}
	defer theirs.Close()
	process := userns.Process{
		Exe: r.exe(), Args: []string{"coracle", "x", "fuse"}, Dir: "/",
		Files:  []*os.File{null, null, null, config, theirs, toInit, image},
		Setsid: true,
	}
	if c.fuse, err = process.Start(); err != nil {
		ours.Close()
		return err
	}
	c.serve = ours
	return nil
}
