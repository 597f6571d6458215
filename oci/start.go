package oci

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/coracle-runtime/coracle/userns"
	"golang.org/x/sys/unix"
)

// start starts x init and its keeper, which then depend on each other only.
// x fuse keeps a container with an image; x guard one without, unless the end of
// a PID namespace ends all its processes anyway.
func (r *Runtime) start(p *Plan) (*container, error) {
	c := &container{log: r.Log, begun: time.Now(), image: p.Root.Image != nil}
	if p.Namespaces.PID && p.Namespaces.Init {
		c.ended = make(chan struct{})
	}
	var toKeeper, toInit *os.File
	if c.image || !p.Namespaces.PID {
		var err error
		if toKeeper, toInit, err = socketpair("keeper"); err != nil {
			return nil, err
		}
		defer toKeeper.Close()
		defer toInit.Close()
	}
	// x init first: it has more to do.
	if err := r.startInit(c, p, toKeeper); err != nil {
		return nil, err
	}
	if toInit != nil {
		if err := r.startKeeper(c, p, toInit); err != nil {
			unix.Kill(c.init, unix.SIGKILL)
			unix.Wait4(c.init, nil, 0, nil)
			c.report.Close()
			return nil, err
		}
	}
	r.Log.Debug("x init and its keeper started", "after", time.Since(c.begun))
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
func (r *Runtime) startInit(c *container, p *Plan, toKeeper *os.File) error {
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
	if toKeeper != nil {
		args = append(args, "--keeper-fd="+strconv.Itoa(int(toKeeper.Fd())))
		passed = append(passed, toKeeper)
	}
	if r.Log.Enabled(context.Background(), slog.LevelDebug) {
		args = append(args, "--debug")
	}
	files, closeCopies, err := r.files(passed)
	if err != nil {
		return err
	}
	defer closeCopies()
	process := userns.Process{
		Exe: r.exe(), Args: args,
		Files: files,
		Flags: namespaceFlags(p.Namespaces), Map: &p.IDs,
		Ambient:     true,
		ParentDeath: unix.SIGKILL,
	}
	if c.init, err = process.StartPID(); err != nil {
		ours.Close()
		return err
	}
	c.report = ours
	return nil
}

// files puts passed at their own numbers and keeps what was inherited.
func (r *Runtime) files(passed []*os.File) (files []*os.File, closeCopies func(), err error) {
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
	closeCopies = func() {
		for _, f := range copies {
			f.Close()
		}
	}
	for fd := range files {
		if files[fd] != nil {
			continue
		}
		if fd <= 2 {
			if files[fd], err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				closeCopies()
				return nil, nil, err
			}
			copies = append(copies, files[fd])
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		// A copy, because an os.File closes its descriptor in the end.
		if dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			files[fd] = os.NewFile(uintptr(dup), "inherited")
			copies = append(copies, files[fd])
		}
	}
	return files, closeCopies, nil
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

// startKeeper starts x fuse or x guard, outside of all that.
func (r *Runtime) startKeeper(c *container, p *Plan, toInit *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	ours, theirs, err := socketpair("caller")
	if err != nil {
		return err
	}
	defer theirs.Close()
	process := userns.Process{
		Exe: r.exe(), Args: []string{"coracle", "x", "guard"}, Dir: "/",
		Files:  []*os.File{null, null, null, theirs, toInit},
		Setsid: true,
	}
	if c.image {
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
		process.Args[2] = "fuse"
		process.Files = append(process.Files, config, image)
	}
	if c.keeper, err = process.StartPID(); err != nil {
		ours.Close()
		return err
	}
	c.serve = ours
	return nil
}
