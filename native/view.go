package native

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image"
	"github.com/coracle-runtime/coracle/oci"
)

// view is the container's file system as it will be after the mounts planned
// so far. Links in bound directories lead to where they will lead inside.
type view struct{ p *planner }

var _ image.Root = view{}

// covering returns the mount that will be seen at name, nil for the root.
func (p *planner) covering(name string) *oci.Mount {
	for i := len(p.plan.Mounts) - 1; i >= 0; i-- { // a later mount hides an earlier one
		m := &p.plan.Mounts[i]
		if m.Type != "symlink" && within(name, m.Target) {
			return m
		}
	}
	return nil
}

// within tells whether name is dir or below it.
func within(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir) && name[len(dir)] == '/'
}

// behind returns the host's path of a name below a bind.
func behind(m *oci.Mount, name string) string { return path.Join(m.Source, name[len(m.Target):]) }

func isBind(m *oci.Mount) bool { return m.Type == "bind" || m.Type == "rbind" }

// Lstat tells what will be at name.
func (v view) Lstat(name string) (image.Stat, error) {
	if m := v.p.covering(name); m != nil {
		if isBind(m) {
			real, err := image.Resolve(v.p.h.Files, m.Source)
			if err != nil {
				return image.Stat{}, err
			}
			return v.p.h.Files.Lstat(path.Join(real, name[len(m.Target):]))
		}
		if name == m.Target {
			return image.Stat{Mode: unix.S_IFDIR | 0o755}, nil
		}
		return image.Stat{}, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	if mode, ok := v.p.made[name]; ok {
		return image.Stat{Mode: mode}, nil
	}
	return v.p.root.Lstat(name)
}

// Readlink returns the target of a link.
func (v view) Readlink(name string) (string, error) {
	if m := v.p.covering(name); m != nil && isBind(m) {
		return v.p.h.Files.Readlink(behind(m, name))
	}
	if mode, ok := v.p.made[name]; ok && mode&unix.S_IFMT == unix.S_IFLNK {
		for _, e := range v.p.plan.Root.Entries {
			if e.Path == name {
				return string(e.Content), nil
			}
		}
	}
	return v.p.root.Readlink(name)
}

// ReadFile and ReadDir read the image alone: nothing asks for more.
func (v view) ReadFile(name string, limit int64) ([]byte, error) {
	return v.p.root.ReadFile(name, limit)
}
func (v view) ReadDir(name string) ([]string, error) { return v.p.root.ReadDir(name) }

// TargetError is a mount that has no place in the container.
type TargetError struct {
	Source, Target string
	Reason         string
	Cure           string
}

func (e *TargetError) Error() string {
	if e.Source == "" {
		return fmt.Sprintf("mount %s: %s", e.Target, e.Reason)
	}
	return fmt.Sprintf("mount %s to %s: %s", e.Source, e.Target, e.Reason)
}

// Hint says how to make room, where that is known.
func (e *TargetError) Hint() string { return e.Cure }

// place finds where a mount at target will come to lie, and sees to it that
// there is a directory or, without dir, a file: the image's own, or an entry on
// top of it. With mkdir the executor makes it, on a tmpfs of the plan.
func (p *planner) place(source, target string, dir bool) (resolved string, mkdir bool, err error) {
	fail := func(cure, reason string, args ...any) (string, bool, error) {
		return "", false, &TargetError{Source: source, Target: target, Reason: fmt.Sprintf(reason, args...), Cure: cure}
	}
	resolved, err = image.Resolve(view{p}, target)
	if err != nil {
		return fail("", "%v", err)
	}
	st, err := view{p}.Lstat(resolved)
	switch {
	case err == nil && st.IsDir() == dir:
		return resolved, false, nil
	case err == nil && dir:
		return fail("", "%s is a file in the container, but the source is a directory", resolved)
	case err == nil:
		return fail("", "%s is a directory in the container, but the source is a file", resolved)
	case !errors.Is(err, fs.ErrNotExist):
		return fail("", "%v", err)
	}
	m := p.covering(resolved)
	switch {
	case m == nil && p.plan.Root.Write == oci.WriteDirect:
		// Nothing can be presented on top of a directory that is written to.
		cure := "make it: mkdir -p " + path.Join(p.plan.Root.Dir, resolved)
		if !dir {
			cure = "make it: touch " + path.Join(p.plan.Root.Dir, resolved)
		}
		return fail(cure, "%s doesn't exist in container", target)
	case m == nil:
		p.present(resolved, dir)
		return resolved, false, nil
	case m.Type == "tmpfs":
		return resolved, true, nil
	case isBind(m):
		host := behind(m, resolved)
		cure := "make it: mkdir -p " + host
		if !dir {
			cure = "make it: touch " + host
		}
		return fail(cure, "destination %s doesn't exist in container: it would be %s on the host", target, host)
	}
	return fail("", "destination %s doesn't exist in container", target)
}

// present makes an empty mount point with its parents appear in the root.
func (p *planner) present(name string, dir bool) {
	mode := uint32(unix.S_IFREG | 0o644)
	if dir {
		mode = unix.S_IFDIR | 0o755
	}
	p.enter(oci.Entry{Path: name, Mode: mode})
}

// enter adds an entry to the root, in place of one of the same name.
func (p *planner) enter(e oci.Entry) {
	for parent := path.Dir(e.Path); parent != "/"; parent = path.Dir(parent) {
		if _, err := p.root.Lstat(parent); err == nil {
			break
		}
		p.made[parent] = unix.S_IFDIR | 0o755
	}
	p.made[e.Path] = e.Mode
	for i := range p.plan.Root.Entries {
		if p.plan.Root.Entries[i].Path == e.Path {
			p.plan.Root.Entries[i] = e
			return
		}
	}
	p.plan.Root.Entries = append(p.plan.Root.Entries, e)
}

// generate puts a file of our own at name, whose last component may be a link
// or missing in the image. It tells whether that was possible.
func (p *planner) generate(name string, mode uint32, content []byte) bool {
	dir, err := image.Resolve(view{p}, path.Dir(name))
	if err != nil || p.covering(dir) != nil {
		p.verbose("Not generating %s: there is no place for it in the container", name)
		return false
	}
	final := path.Join(dir, path.Base(name))
	st, err := p.root.Lstat(final)
	if p.plan.Root.Write == oci.WriteDirect && (err != nil || !st.IsRegular() || mode&unix.S_IFMT != unix.S_IFREG) {
		p.verbose("Not generating %s: it is no file in the container, and --writable adds none", name)
		return false
	}
	if err == nil && st.IsDir() {
		p.warn("Not generating %s: it is a directory in the container", name)
		return false
	}
	p.enter(oci.Entry{Path: final, Mode: mode, Content: content})
	return true
}

// hostType resolves a path of the host and tells what is there.
func (p *planner) hostType(name string) (real string, st image.Stat, err error) {
	real, err = image.Resolve(p.h.Files, name)
	if err != nil {
		return "", st, err
	}
	st, err = p.h.Files.Lstat(real)
	return real, st, err
}

// onHost makes a path of the user's absolute.
func (p *planner) onHost(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(p.h.Cwd, name)
}
