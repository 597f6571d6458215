package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/coracle-runtime/coracle/image"
	"github.com/coracle-runtime/coracle/native"
	"github.com/coracle-runtime/coracle/oci"
	"github.com/coracle-runtime/coracle/userns"
)

// The actions: one image, one process. Each reads as the life of a run: open
// the image, plan, start, wait.

type runCmd struct{ actionFlags }

// Run runs the image's runscript.
func (c *runCmd) Run(ctx context.Context, a *app) error { return c.start(ctx, a, native.Run) }

type execCmd struct{ actionFlags }

// Run runs a program by name.
func (c *execCmd) Run(ctx context.Context, a *app) error {
	if len(c.Words) < 2 {
		return &usageError{"exec", errors.New("accepts an image and a command, got " + fmt.Sprint(len(c.Words)) + " word")}
	}
	return c.start(ctx, a, native.Exec)
}

type shellCmd struct {
	actionFlags
	Shell string `short:"s" keys:"SHELL" placeholder:"PATH" help:"The shell to run."`
}

// Run runs an interactive shell.
func (c *shellCmd) Run(ctx context.Context, a *app) error {
	c.shell = c.Shell
	return c.start(ctx, a, native.Shell)
}

type testCmd struct{ actionFlags }

// Run runs the image's test script.
func (c *testCmd) Run(ctx context.Context, a *app) error { return c.start(ctx, a, native.Test) }

// start runs one action to its end; the error is a *statusError for what the
// container itself ended with.
func (c *actionFlags) start(ctx context.Context, a *app, kind native.Kind) error {
	begin := time.Now()
	r, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	defer r.Close()
	opened := time.Now()
	plan, err := r.plan(ctx, a, kind)
	if err != nil {
		return err
	}
	planned := time.Now()
	status, err := r.run(ctx, a, plan, kind)
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind, c.Words[0], a.diagnose(ctx, err))
	}
	level := levelVerbose
	if r.builtin {
		level = 0 // the demonstration shows its times
	}
	a.log.Log(ctx, level, fmt.Sprintf("image ready after %s, planned in %s, payload running after another %s, ended with %d",
		took(begin, opened), took(opened, planned), status.Start.Round(10*time.Microsecond), status.Code))
	if status.Code != 0 || status.Signal != 0 {
		return &statusError{status.Code, status.Signal}
	}
	return nil
}

func took(from, to time.Time) time.Duration { return to.Sub(from).Round(10 * time.Microsecond) }

// action is an opened image with the flags to run it by.
type action struct {
	*actionFlags
	img     *image.Image
	sandbox *image.TemporarySandbox // the image unpacked, where FUSE cannot be had
	name    string                  // the image's path for the payload; empty is its own
	builtin bool
	oneID   bool // the helpers for more ids have failed
}

// Close closes the image and removes what was unpacked.
func (r *action) Close() error {
	err := r.img.Close()
	if r.sandbox != nil {
		err = errors.Join(err, r.sandbox.Close())
	}
	return err
}

// open gets the image where it must be fetched and opens it.
func (c *actionFlags) open(ctx context.Context, a *app) (*action, error) {
	if len(c.Words) == 0 {
		return nil, &usageError{"", errors.New("an image is needed")}
	}
	r := &action{actionFlags: c}
	path := c.Words[0]
	var temporary *image.TemporaryImage
	if image.IsURI(path) {
		uri, err := image.ParseURI(path)
		if err != nil {
			return nil, err
		}
		r.builtin = uri.Scheme == "builtin"
		if path, temporary, err = a.fetch(ctx, uri, c.DisableCache, c.NoHTTPS); err != nil {
			return nil, err
		}
	}
	img, err := image.Open(path)
	if temporary != nil {
		err = errors.Join(err, temporary.Close()) // the open file is enough
	}
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	r.img = img
	if c.TmpSandbox && img.Format != image.Sandbox {
		if err := r.unpack(ctx, a, "--tmp-sandbox asks for it"); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

// unpack replaces the image by a temporary directory with its files.
func (r *action) unpack(ctx context.Context, a *app, why string) error {
	if r.NoTmpSandbox {
		return fmt.Errorf("unpacking the image to a temporary sandbox is needed (%s), but --no-tmp-sandbox forbids it", why)
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	a.log.Info(fmt.Sprintf("Unpacking the image (%s compressed) to a temporary directory in %s: %s",
		mebibytes(r.img.Size), a.tempDir(), why))
	sandbox, err := image.TempSandbox(ctx, r.img, a.tempDir(), a.log)
	if err != nil {
		return err
	}
	r.name, r.sandbox = r.img.Path, sandbox
	img, err := image.Open(sandbox.Dir)
	if err != nil {
		return errors.Join(err, sandbox.Close())
	}
	old := r.img
	r.img = img
	return old.Close()
}

// plan decides everything about the container.
func (r *action) plan(ctx context.Context, a *app, kind native.Kind) (*oci.Plan, error) {
	options, err := r.options(a)
	if err != nil {
		return nil, err
	}
	host, err := a.host(ctx, r.Fakeroot, r.oneID)
	if err != nil {
		return nil, err
	}
	command := native.Command{Kind: kind, Args: r.Words[1:], Container: r.name}
	plan, warnings, err := native.Plan(command, r.img, options, host)
	for _, w := range warnings {
		a.log.Log(ctx, w.Level, w.Text)
	}
	return plan, err
}

// run carries the plan out. Where the kernel refuses FUSE the image is unpacked,
// and where newuidmap fails one id has to do; the plan is made anew then.
func (r *action) run(ctx context.Context, a *app, plan *oci.Plan, kind native.Kind) (oci.Status, error) {
	for {
		runtime := &oci.Runtime{Log: a.log, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Image: r.img.File()}
		// Signals are the payload's from here on: they do not end the context.
		status, err := runtime.Run(ctx, plan)
		var noFUSE *oci.FUSEError
		var noHelper *userns.HelperError
		switch {
		case errors.As(err, &noFUSE) && r.sandbox == nil:
			err = r.unpack(ctx, a, noFUSE.Error()+
				"; with an outer container's --device /dev/fuse it would be mounted (coracle doctor tells more)")
		case errors.As(err, &noHelper) && !r.oneID:
			a.log.Info(fmt.Sprintf("--fakeroot goes on with a single id: %v", err))
			r.oneID, err = true, nil
		default:
			return status, err
		}
		if err != nil {
			return status, err
		}
		if plan, err = r.plan(ctx, a, kind); err != nil {
			return status, err
		}
	}
}

type planCmd struct {
	actionFlags
}

// Run prints the plan of `coracle exec` with the same flags, as JSON.
func (c *planCmd) Run(ctx context.Context, a *app) error {
	r, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	defer r.Close()
	kind := native.Exec
	if len(c.Words) < 2 {
		kind = native.Run
	}
	plan, err := r.plan(ctx, a, kind)
	if err != nil {
		return err
	}
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(plan)
}

// options turns flags into what native mode understands.
func (c *actionFlags) options(a *app) (native.Options, error) {
	o := native.Options{
		Bind: a.appended(c.Bind, "BIND", "BINDPATH"), Mount: a.appended(c.Mount, "MOUNT"), Home: c.Home, NoHome: c.NoHome,
		NoMount: c.NoMount, Contain: c.Contain, ContainAll: c.ContainAll, Compat: c.Compat, Workdir: c.Workdir,
		Scratch: c.Scratch, Writable: c.Writable, WritableTmpfs: c.WritableTmpfs,
		CleanEnv: c.CleanEnv, Env: c.Env, NoEval: c.NoEval,
		Fakeroot: c.Fakeroot, Userns: c.Userns, PID: c.PID, NoPID: c.NoPID, NoInit: c.NoInit, IPC: c.IPC, UTS: c.UTS,
		Hostname: c.Hostname, Net: c.Net, Network: c.Network, Cwd: c.Cwd, NoUmask: c.NoUmask, Shell: c.shell,
		DNS: c.DNS, App: c.App, NoCompat: c.NoCompat, AllowSetuid: c.AllowSetuid,
		KeepPrivs: c.KeepPrivs, NoPrivs: c.NoPrivs, AddCaps: c.AddCaps, DropCaps: c.DropCaps,
	}
	for _, name := range c.EnvFile {
		content, err := os.ReadFile(name)
		if err != nil {
			return o, fmt.Errorf("read environment file: %w", err)
		}
		o.EnvFiles = append(o.EnvFiles, native.EnvFile{Name: name, Content: content})
	}
	return o, nil
}

// appended adds the environment's setting to the flag's values, as
// SingularityCE does for binds.
func (a *app) appended(flag []string, keys ...string) []string {
	if value, ok := a.env.setting(keys...); ok && value != "" {
		return append(flag, value)
	}
	return flag
}
