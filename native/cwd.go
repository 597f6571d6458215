package native

import (
	"errors"
	"io/fs"
	"path"

	"github.com/coracle-runtime/coracle/image"
	"github.com/coracle-runtime/coracle/oci"
)

// mountCwd binds the working directory, unless it is inside already or is one
// of the system's directories, which belong to the image.
func (p *planner) mountCwd() error {
	cwd := path.Clean(p.h.Cwd)
	if p.o.Contain || p.without("cwd") || !path.IsAbs(cwd) {
		return nil
	}
	real, st, err := p.hostType(cwd)
	if err != nil || !st.IsDir() {
		p.verbose("Not mounting CWD, %s: %v", cwd, orNotDir(err))
		return nil
	}
	if isSystemDir(cwd) || isSystemDir(real) {
		p.verbose("Not mounting CWD within operating system directory: %s", cwd)
		return nil
	}
	if p.shows(cwd, real) {
		return nil
	}
	inside, err := image.Resolve(view{p}, cwd)
	if err != nil {
		p.verbose("Not mounting CWD, %s in the container: %v", cwd, err)
		return nil
	}
	if real != cwd && inside != cwd && inside != real {
		p.verbose("Not mounting CWD, detected symlinks with different destination between host/container")
		return nil
	}
	if m := p.covering(inside); m != nil {
		if m.Target == inside {
			p.verbose("Not mounting CWD (already mounted in container): %s", cwd)
			return nil
		}
		if st, err := (view{p}).Lstat(inside); m.Type != "tmpfs" && (err != nil || !st.IsDir()) {
			p.verbose("Not mounting CWD, %s doesn't exist within container", inside)
			return nil
		}
	}
	st, err = view{p}.Lstat(inside)
	if missing := errors.Is(err, fs.ErrNotExist); missing && p.plan.Root.Write == oci.WriteDirect {
		p.verbose("Not mounting CWD, %s doesn't exist within container", inside)
		return nil
	} else if !missing && (err != nil || !st.IsDir()) {
		p.verbose("Not mounting CWD, %s is no directory in the container", inside)
		return nil
	}
	resolved, mkdir, err := p.place(cwd, inside, true)
	if err != nil {
		p.verbose("Not mounting CWD: %v", err)
		return nil
	}
	p.add(oci.Mount{Type: "rbind", Source: cwd, Target: resolved, Flags: noSUIDDev, Mkdir: mkdir,
		Optional: true, Warn: "could not mount the current working directory " + cwd, Tag: "cwd"})
	return nil
}

// isSystemDir tells directories that SingularityCE never mounts as the working
// directory.
func isSystemDir(dir string) bool {
	switch dir {
	case "/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64":
		return true
	}
	return within(dir, "/sys") || within(dir, "/proc") || within(dir, "/dev")
}
