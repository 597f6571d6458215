package native

import (
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image"
	"github.com/coracle-runtime/coracle/oci"
)

// rootSource is what a plan needs of an image besides its files.
type rootSource struct {
	path         string // absolute
	kind         string // for messages: sif, sandbox, …
	dir          bool
	offset, size int64
}

// WritableError is --writable on an image that cannot be written to.
// SingularityCE unpacks such an image and throws the changes away at the end.
type WritableError struct {
	Image, Kind string
}

func (e *WritableError) Error() string {
	return fmt.Sprintf("%s is a %s image and cannot be written to", e.Image, e.Kind)
}

// Hint says what to do instead.
func (e *WritableError) Hint() string {
	base := strings.TrimSuffix(path.Base(e.Image), ".sif")
	return fmt.Sprintf("to keep changes, unpack it first: coracle build --sandbox %s/ %s, and use --writable on %s/\n"+
		"to throw them away at the end: --writable-tmpfs", base, e.Image, base)
}

// Plan decides everything about running cmd in img. It is pure but for reading
// the image and the host's files. Warnings come with an error too.
func Plan(cmd Command, img *image.Image, o Options, h Host) (*oci.Plan, []Warning, error) {
	source := rootSource{path: img.Path, kind: img.Format.String(), offset: img.Offset, size: img.Size, dir: img.Format == image.Sandbox}
	root, err := img.Root()
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", img.Path, err)
	}
	return plan(cmd, source, root, o, h)
}

// planner makes one plan. Its methods are the steps, in the order in which
// [plan] calls them.
type planner struct {
	cmd    Command
	o      Options
	h      Host
	source rootSource
	root   image.Root
	early  prefetch

	plan     *oci.Plan
	made     map[string]uint32 // st_mode of what Root.Entries present, parents included
	warnings []Warning

	binds       []bind
	home        homeDir
	pidExplicit bool // --pid itself, not -C
	uid, gid    int  // inside
}

// plan is Plan for a root that may come from anywhere.
func plan(cmd Command, source rootSource, root image.Root, o Options, h Host) (*oci.Plan, []Warning, error) {
	p := &planner{cmd: cmd, o: o, h: h, source: source, root: root, plan: &oci.Plan{IDs: h.IDs}, made: map[string]uint32{}}
	p.early.begin(root, source.dir)
	for _, step := range []func() error{
		p.infer, p.chooseRoot, p.parseBinds, p.chooseHome,
		p.namespaces,
		p.mountDev, p.mountHosts, p.mountKernel, p.mountHomeAndTmp, p.mountScratch,
		p.presentIdentity, p.presentResolvConf, p.presentHostname,
		p.mountBinds, p.mountCwd,
		p.process, p.environment,
	} {
		if err := step(); err != nil {
			return nil, p.warnings, err
		}
	}
	return p.plan, p.warnings, nil
}

func (p *planner) warn(format string, args ...any) { p.note(slog.LevelWarn, format, args...) }

// verbose notes what -v shows.
func (p *planner) verbose(format string, args ...any) { p.note(slog.LevelInfo-1, format, args...) }

func (p *planner) note(level slog.Level, format string, args ...any) {
	p.warnings = append(p.warnings, Warning{Level: level, Text: fmt.Sprintf(format, args...)})
}

// infer turns on what flags imply, and refuses or drops what contradicts them.
func (p *planner) infer() error {
	o := &p.o
	p.pidExplicit = o.PID
	if o.Compat {
		if o.NoCompat {
			return errors.New("cannot use --no-compat with --compat: incompatible options")
		}
		o.ContainAll, o.WritableTmpfs, o.NoInit, o.NoUmask, o.NoEval = true, true, true, true, true
	}
	if o.NoCompat {
		p.warn("--no-compat applies to --oci mode only, ignoring")
	}
	if o.ContainAll {
		o.Contain, o.PID, o.IPC, o.CleanEnv = true, true, true, true
	}
	if o.NoPID {
		o.PID = false
	}
	if o.Hostname != "" {
		o.UTS = true
	}
	if o.Writable && o.WritableTmpfs {
		p.warn("Disabling --writable-tmpfs flag, mutually exclusive with --writable")
		o.WritableTmpfs = false
	}
	return p.inferNoMount()
}

// inferNoMount splits --no-mount and warns of what is unknown in it.
func (p *planner) inferNoMount() error {
	var all []string
	for _, spec := range p.o.NoMount {
		for v := range strings.SplitSeq(spec, ",") {
			switch v = strings.TrimSpace(v); v {
			case "":
			case "proc", "sys", "dev", "devpts", "home", "tmp", "hostfs", "cwd", "bind-paths":
				all = append(all, v)
			default:
				if path.IsAbs(v) {
					all = append(all, path.Clean(v))
				} else {
					p.warn("Ignoring unknown mount type '%s'", v)
				}
			}
		}
	}
	p.o.NoMount = all
	return nil
}

// without tells whether --no-mount names one of the kinds.
func (p *planner) without(kinds ...string) bool {
	for _, v := range p.o.NoMount {
		for _, kind := range kinds {
			if v == kind {
				return true
			}
		}
	}
	return false
}

// chooseRoot says what becomes "/", and who its files belong to.
func (p *planner) chooseRoot() error {
	p.uid, p.gid = p.h.UID, p.h.GID
	if p.o.Fakeroot {
		p.uid, p.gid = 0, 0
	}
	r := &p.plan.Root
	switch {
	case p.o.Writable && !p.source.dir:
		return &WritableError{Image: p.source.path, Kind: p.source.kind}
	case p.o.Writable:
		r.Write = oci.WriteDirect
	case p.o.WritableTmpfs:
		r.Write = oci.WriteTmpfs
	}
	if p.source.dir {
		r.Dir = p.source.path
		return nil
	}
	r.Image = &oci.Squashfs{Path: p.source.path, Offset: p.source.offset, Size: p.source.size}
	if single(p.h.IDs) {
		// Unmapped owners would show as nobody, and files of mode 0600 could not be read.
		r.Image.Owner = &[2]int{p.uid, p.gid}
	}
	return nil
}

// single tells whether a map has no room for other users.
func single(ids oci.IDs) bool {
	var users, groups uint64
	for _, e := range ids.UID {
		users += uint64(e.Count)
	}
	for _, e := range ids.GID {
		groups += uint64(e.Count)
	}
	return users <= 1 || groups <= 1
}

func (p *planner) parseBinds() (err error) {
	p.binds, err = userBinds(p.o)
	return err
}

// namespaces are those that were asked for.
func (p *planner) namespaces() error {
	n := &p.plan.Namespaces
	n.PID, n.IPC, n.UTS = p.o.PID, p.o.IPC, p.o.UTS
	n.Init = n.PID && !p.o.NoInit
	if n.PID && !p.pidExplicit {
		// A PID namespace that was not asked for by name is no reason to fail;
		// one with the outer /proc would show the wrong processes.
		n.PIDOptional = true
		n.PIDWarn = "/proc of the outer container is masked: running without a PID namespace; --no-pid avoids this line"
	}
	p.plan.Hostname = p.o.Hostname
	if !p.o.Net {
		return nil
	}
	n.Net = true
	switch network := p.o.Network; {
	case network == "none":
	case p.o.Fakeroot && (network == "" || network == "fakeroot"):
		p.warn("fakeroot could not use 'fakeroot' network, fallback to 'none' network")
	default:
		if network == "" {
			network = "bridge"
		}
		return &NetworkError{Network: network}
	}
	return nil
}

// NetworkError is a network that needs privileges on the host.
type NetworkError struct{ Network string }

func (e *NetworkError) Error() string {
	return fmt.Sprintf("network %s is not permitted for unprivileged users", e.Network)
}

// Hint names the network that needs none.
func (e *NetworkError) Hint() string {
	return "use --net --network none for a container without network, or leave --net out to use the host's"
}

// add appends a mount to the plan.
func (p *planner) add(m oci.Mount) { p.plan.Mounts = append(p.plan.Mounts, m) }

// Flags of mounts. Native containers never honour set-user-ID files, and
// devices only below /dev.
const (
	noSUID    = unix.MS_NOSUID
	noSUIDDev = unix.MS_NOSUID | unix.MS_NODEV
)
