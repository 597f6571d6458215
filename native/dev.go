package native

import (
	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/oci"
)

// minimalDevices are bound one by one with --contain. SingularityCE has neither
// full nor fuse there: full is part of every OCI container, and without fuse no
// container can be started inside of this one.
var minimalDevices = [...]string{"null", "zero", "full", "random", "urandom", "tty", "fuse"}

// minimalLinks are the links that every /dev has.
var minimalLinks = [...][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
}

// mountDev gives the container the host's /dev, or a minimal one with --contain.
func (p *planner) mountDev() error {
	if p.without("dev") {
		return nil
	}
	if p.o.Contain && !p.bindsWholeDev() {
		return p.mountMinimalDev()
	}
	resolved, mkdir, err := p.place("/dev", "/dev", true)
	if err != nil {
		p.warn("Skipping mount /dev [dev]: %s", reasonOf(err))
		return nil
	}
	p.add(oci.Mount{Type: "rbind", Source: "/dev", Target: resolved, Flags: noSUID, Mkdir: mkdir, Tag: "dev"})
	return nil
}

// bindsWholeDev tells whether --bind /dev asks for the host's.
func (p *planner) bindsWholeDev() bool {
	for _, b := range p.binds {
		if b.source == "/dev" && b.target == "/dev" {
			return true
		}
	}
	return false
}

func (p *planner) mountMinimalDev() error {
	dev, mkdir, err := p.place("", "/dev", true)
	if err != nil {
		return err
	}
	if dev != "/dev" {
		return &TargetError{Target: "/dev", Reason: "it is a link in the image"}
	}
	p.add(oci.Mount{Type: "tmpfs", Source: "tmpfs", Target: dev, Flags: noSUIDDev | unix.MS_NOEXEC, Data: "mode=0755", Mkdir: mkdir, Tag: "dev"})
	for _, name := range minimalDevices {
		p.addDevice("/dev/"+name, "/dev/"+name)
	}
	if p.h.TTY != "" {
		// Programs find the terminal's name there: the host's devpts is gone.
		p.addDevice(p.h.TTY, "/dev/console")
	}
	for _, l := range minimalLinks {
		p.add(oci.Mount{Type: "symlink", Target: "/dev/" + l[0], Symlink: l[1], Tag: "dev"})
	}
	p.add(oci.Mount{Type: "tmpfs", Source: "shm", Target: "/dev/shm", Flags: noSUIDDev, Data: "mode=1777", Mkdir: true, Tag: "dev"})
	if p.plan.Namespaces.IPC {
		p.add(oci.Mount{Type: "mqueue", Source: "mqueue", Target: "/dev/mqueue", Flags: noSUIDDev | unix.MS_NOEXEC, Mkdir: true, Optional: true, Tag: "dev"})
	}
	if !p.without("devpts") {
		p.add(oci.Mount{Type: "devpts", Source: "devpts", Target: "/dev/pts", Flags: noSUID | unix.MS_NOEXEC,
			Data: "newinstance,mode=0620,ptmxmode=0666", Mkdir: true, Optional: true, Tag: "dev"})
		p.add(oci.Mount{Type: "symlink", Target: "/dev/ptmx", Symlink: "pts/ptmx", Tag: "dev"})
	}
	return nil
}

// addDevice binds a device that the host has into the minimal /dev.
func (p *planner) addDevice(source, target string) {
	if _, st, err := p.hostType(source); err != nil || st.IsDir() {
		return
	}
	p.add(oci.Mount{Type: "bind", Source: source, Target: target, Flags: noSUID, Mkdir: true, Tag: "dev"})
}

// skipDevBind tells whether a bind below /dev is left out, as it is there
// already or must not be.
func (p *planner) skipDevBind(source, target string) bool {
	switch {
	case source != target:
		p.warn("Skipping %s bind mount: source and destination must be identical when binding to /dev", source)
		return true
	case p.without("dev"):
		p.warn("Skipping %s bind mount: disallowed by configuration", source)
		return true
	case !p.o.Contain || p.bindsWholeDev():
		return true // part of the host's /dev
	}
	for _, m := range p.plan.Mounts {
		if m.Target == target {
			p.warn("Skipping %s bind mount: already mounted", source)
			return true
		}
	}
	return false
}
