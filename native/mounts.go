package native

import (
	"errors"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image"
	"github.com/coracle-runtime/coracle/oci"
)

// mountHosts binds /etc/hosts and /etc/localtime, what singularity.conf binds
// by default. A file that the host lacks is left out silently.
func (p *planner) mountHosts() error {
	if p.without("bind-paths") {
		return nil
	}
	for _, name := range []string{"/etc/localtime", "/etc/hosts"} {
		if p.without(name) {
			continue
		}
		if name == "/etc/hosts" && p.o.Contain && p.o.Net {
			// The host's names mean nothing in an empty network.
			p.generate(name, unix.S_IFREG|0o644, []byte(defaultHosts))
			continue
		}
		if _, st, err := p.hostType(name); err != nil || !st.IsRegular() {
			continue
		}
		p.bindFile(name)
	}
	return nil
}

const defaultHosts = `127.0.0.1   localhost
::1         localhost ip6-localhost ip6-loopback
ff02::1     ip6-allnodes
ff02::2     ip6-allrouters
`

// bindFile binds a file of the host at the same path. A link there in the image
// gives way to a file of its own: /etc/localtime is one in most images, and
// mounting behind it would change the zone Etc/UTC.
func (p *planner) bindFile(name string) {
	target := name
	dir, err := image.Resolve(view{p}, path.Dir(name))
	if err == nil {
		target = path.Join(dir, path.Base(name))
		if st, err := p.root.Lstat(target); err == nil && st.IsSymlink() && p.plan.Root.Write != oci.WriteDirect {
			p.enter(oci.Entry{Path: target, Mode: unix.S_IFREG | 0o644})
		}
	}
	target, mkdir, err := p.place(name, target, false)
	if err != nil {
		p.verbose("Skipping mount %s [binds]: %s", name, reasonOf(err))
		return
	}
	p.add(oci.Mount{Type: "bind", Source: name, Target: target, Flags: noSUIDDev, Mkdir: mkdir,
		Optional: true, Warn: "could not mount " + name, Tag: "binds"})
}

// skipping makes a warning of a mount that nobody asked for by name and that
// has no place in the container.
func (p *planner) skipping(tag string, err error) error {
	var target *TargetError
	if !errors.As(err, &target) {
		return err
	}
	source := target.Source
	if source == "" {
		source = "tmpfs"
	}
	p.warn("Skipping mount %s [%s]: %s", source, tag, target.Reason)
	return nil
}

// reasonOf is an error's cause without what we mounted where.
func reasonOf(err error) string {
	var target *TargetError
	if errors.As(err, &target) {
		return target.Reason
	}
	return err.Error()
}

// mountKernel gives the container /proc and /sys.
func (p *planner) mountKernel() error {
	outer := oci.Mount{Type: "rbind", Source: "/proc", Target: "/proc", Flags: noSUIDDev, Tag: "kernel"}
	switch {
	case p.without("proc"):
	case p.plan.Namespaces.PID:
		m := oci.Mount{Type: "proc", Source: "proc", Target: "/proc", Flags: noSUIDDev | unix.MS_NOEXEC, Tag: "kernel"}
		if p.plan.Namespaces.PIDOptional {
			m.Else = &outer // for when the executor goes on without the namespace
		}
		p.addKernel(m)
	default:
		p.addKernel(outer)
	}
	if !p.without("sys") {
		// A sysfs of one's own needs a network namespace; the outer one does as well.
		p.addKernel(oci.Mount{Type: "rbind", Source: "/sys", Target: "/sys", Flags: noSUIDDev, Tag: "kernel"})
	}
	return nil
}

// addKernel mounts a kernel file system, or warns that the image has no place for it.
func (p *planner) addKernel(m oci.Mount) {
	target, mkdir, err := p.place(m.Source, m.Target, true)
	if err != nil {
		p.warn("Skipping mount %s [%s]: %s", m.Source, m.Tag, reasonOf(err))
		return
	}
	m.Target, m.Mkdir = target, mkdir
	if m.Else != nil {
		m.Else.Target = target
	}
	p.add(m)
}

// mountTmpfs mounts an empty tmpfs, as big as the kernel allows by default:
// half of the memory, and not SingularityCE's 64 MiB.
func (p *planner) mountTmpfs(target, data, tag string) error {
	resolved, mkdir, err := p.place("", target, true)
	if err != nil {
		return err
	}
	p.add(oci.Mount{Type: "tmpfs", Source: "tmpfs", Target: resolved, Flags: noSUIDDev, Data: data, Mkdir: mkdir, Tag: tag})
	return nil
}

// mountTmp gives the container /tmp and /var/tmp: the host's, or with --contain
// its own.
func (p *planner) mountTmp() error {
	if p.without("tmp") {
		return nil
	}
	dirs := []struct{ target, inWorkdir string }{{"/tmp", "tmp"}, {"/var/tmp", "var_tmp"}}
	var tmp string // what /tmp resolved to
	for _, d := range dirs {
		resolved, err := image.Resolve(view{p}, d.target)
		if err == nil && resolved == tmp {
			continue // /var/tmp is a link to /tmp
		}
		if d.target == "/tmp" {
			tmp = resolved
		}
		switch {
		case p.o.Contain && p.o.Workdir != "":
			if err := p.skipping("tmp", p.bindWorkdir(d.inWorkdir, d.target, 0o1777, "tmp")); err != nil {
				return err
			}
		case p.o.Contain:
			if err := p.skipping("tmp", p.mountTmpfs(d.target, "mode=1777", "tmp")); err != nil {
				return err
			}
		default:
			p.bindDefault(d.target, d.target, "tmp", "")
		}
	}
	return nil
}

// bindDefault binds a directory that nobody asked for by name, so that its
// absence or refusal is a warning at most.
func (p *planner) bindDefault(source, target, tag, warning string) {
	if warning == "" {
		warning = "could not mount " + source
	}
	_, st, err := p.hostType(source)
	if err != nil || !st.IsDir() {
		if !errors.Is(err, fs.ErrNotExist) {
			p.warn("%s: %v", warning, orNotDir(err))
		}
		return
	}
	resolved, mkdir, err := p.place(source, target, true)
	if err != nil {
		p.warn("Skipping mount %s [%s]: %s", source, tag, reasonOf(err))
		return
	}
	p.add(oci.Mount{Type: "rbind", Source: source, Target: resolved, Flags: noSUIDDev, Mkdir: mkdir,
		Optional: true, Warn: warning, Tag: tag})
}

func orNotDir(err error) error {
	if err == nil {
		return unix.ENOTDIR
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// bindWorkdir binds a directory below --workdir, which the executor makes.
func (p *planner) bindWorkdir(name, target string, mode uint32, tag string) error {
	workdir := p.onHost(p.o.Workdir)
	if _, st, err := p.hostType(workdir); err != nil || !st.IsDir() {
		return &WorkdirError{Dir: workdir, Err: orNotDir(err)}
	}
	resolved, mkdir, err := p.place(workdir, target, true)
	if err != nil {
		return err
	}
	p.add(oci.Mount{Type: "rbind", Source: path.Join(workdir, name), Target: resolved, Flags: noSUIDDev, Mkdir: mkdir,
		MakeDir: mode, Tag: tag})
	return nil
}

// WorkdirError is a --workdir that is not there.
type WorkdirError struct {
	Dir string
	Err error
}

func (e *WorkdirError) Error() string { return "workdir " + e.Dir + ": " + e.Err.Error() }
func (e *WorkdirError) Unwrap() error { return e.Err }

// Hint says how to make it.
func (e *WorkdirError) Hint() string { return "make it first: mkdir -p " + e.Dir }

// mountScratch gives the container the directories of --scratch.
func (p *planner) mountScratch() error {
	dirs, err := scratchDirs(p.o)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if p.o.Workdir != "" {
			err = p.bindWorkdir(path.Join("scratch", dir), dir, 0o750, "scratch")
		} else {
			err = p.mountTmpfs(dir, "mode=0755", "scratch")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mountBinds carries out --bind and --mount, in their order.
func (p *planner) mountBinds() error {
	for _, b := range p.binds {
		if b.tmpfs {
			if err := p.mountTmpfs(path.Clean(b.target), b.data, "userbinds"); err != nil {
				return err
			}
			if b.readOnly {
				p.plan.Mounts[len(p.plan.Mounts)-1].Flags |= unix.MS_RDONLY
			}
			continue
		}
		if err := p.mountBind(b); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) mountBind(b bind) error {
	source, target := p.onHost(b.source), path.Clean(b.target)
	m := oci.Mount{Type: "bind", Source: source, Flags: noSUIDDev, Tag: "userbinds"}
	if within(target, "/dev") && within(source, "/dev") {
		if skip := p.skipDevBind(source, target); skip {
			return nil
		}
		m.Flags = noSUID
	}
	if b.readOnly {
		m.Flags |= unix.MS_RDONLY
	}
	_, st, err := p.hostType(source)
	if errors.Is(err, fs.ErrNotExist) {
		return &SourceError{Source: source}
	}
	if err != nil {
		return &TargetError{Source: source, Target: target, Reason: orNotDir(err).Error()}
	}
	if st.IsDir() {
		m.Type = "rbind"
	}
	if m.Target, m.Mkdir, err = p.place(source, target, st.IsDir()); err != nil {
		return err
	}
	p.add(m)
	return nil
}

// SourceError is a bind whose source is not on the host.
type SourceError struct{ Source string }

func (e *SourceError) Error() string { return "mount source " + e.Source + " doesn't exist" }
