package native

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/coracle-runtime/coracle/image"
	"github.com/coracle-runtime/coracle/oci"
)

// homeDir is where the payload's home comes from and where it is.
type homeDir struct {
	source, target string
	custom         bool // chosen with --home
}

// chooseHome reads --home.
func (p *planner) chooseHome() error {
	h := &p.home
	if p.o.Home == "" {
		h.source = p.h.User.Home
		h.target = h.source
		if p.o.Fakeroot {
			h.target = "/root"
		}
		if h.target == "" {
			h.source, h.target = "/", "/"
		}
		return nil
	}
	h.custom = true
	parts := strings.Split(p.o.Home, ":")
	if len(parts) > 2 || parts[0] == "" || parts[len(parts)-1] == "" {
		return fmt.Errorf("home argument has incorrect number of elements: %v", parts)
	}
	h.source = p.onHost(parts[0])
	h.target = h.source
	if len(parts) == 2 {
		if h.target = path.Clean(parts[1]); !path.IsAbs(h.target) {
			return fmt.Errorf("home %q: the destination is not an absolute path", p.o.Home)
		}
	}
	return nil
}

// mountHomeAndTmp mounts in SingularityCE's order, home first, unless the home
// is below one of the tmp directories and would be hidden by it.
func (p *planner) mountHomeAndTmp() error {
	first, second := p.mountHome, p.mountTmp
	if within(p.home.target, "/tmp") || within(p.home.target, "/var/tmp") {
		first, second = second, first
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// mountHome mounts the user's home, or an empty one with --contain.
func (p *planner) mountHome() error {
	h := p.home
	if p.o.NoHome || p.without("home") {
		return nil
	}
	if h.target == "/" {
		p.warn("Skipping impossible home directory mount to '/'")
		return nil
	}
	if p.o.Contain && !h.custom {
		if p.o.Workdir != "" {
			return p.skipping("home", p.bindWorkdir("home", h.target, 0o700, "home"))
		}
		return p.skipping("home", p.mountTmpfs(h.target, "mode=0755", "home"))
	}
	_, st, err := p.hostType(h.source)
	if errors.Is(err, fs.ErrNotExist) && h.custom {
		return &SourceError{Source: h.source}
	}
	if err != nil || !st.IsDir() {
		// SingularityCE mounts an empty directory for a missing home too.
		p.warn("home directory %s on the host: %v; an empty one takes its place", h.source, orNotDir(err))
		return p.skipping("home", p.mountTmpfs(h.target, "mode=0755", "home"))
	}
	if p.shows(h.target, h.source) {
		return nil
	}
	resolved, mkdir, err := p.place(h.source, h.target, true)
	if err != nil && h.custom {
		return err
	} else if err != nil {
		return p.skipping("home", err)
	}
	p.add(oci.Mount{Type: "rbind", Source: h.source, Target: resolved, Flags: noSUIDDev, Mkdir: mkdir,
		Optional: !h.custom, Warn: warnUnless(h.custom, "could not mount home directory "+h.source), Tag: "home"})
	return nil
}

func warnUnless(fatal bool, text string) string {
	if fatal {
		return ""
	}
	return text
}

// shows tells whether a directory of the host is seen at target already,
// through a bind of the plan.
func (p *planner) shows(target, source string) bool {
	resolved, err := image.Resolve(view{p}, target)
	if err != nil {
		return false
	}
	m := p.covering(resolved)
	if m == nil || !isBind(m) {
		return false
	}
	seen, err := image.Resolve(p.h.Files, behind(m, resolved))
	if err != nil {
		return false
	}
	real, err := image.Resolve(p.h.Files, source)
	return err == nil && seen == real
}
