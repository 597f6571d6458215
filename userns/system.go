package userns

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/rootless-containers/rootlesskit/v3/pkg/parent/dynidtools"
	"golang.org/x/sys/unix"
)

// System is where facts come from: this host, or what a test made up.
type System struct {
	Root      fs.FS                                                // "/"
	Env       func(name string) string                             // variables of the caller
	Getent    func(ctx context.Context, uid int) (string, error)   // a line of passwd(5)
	Getsubids func(uid int, user string) (u, g []Range, err error) // the ranges of the name service
	Program   func(name string) ProgramFile                        // on PATH
}

// ProgramFile is a program that may run with more privileges than its caller.
type ProgramFile struct {
	Path     string `json:"path,omitempty"` // "" where there is none
	Setuid   bool   `json:"setuid,omitempty"`
	FileCaps bool   `json:"fileCaps,omitempty"` // has capabilities of its own
	NoSuid   bool   `json:"noSuid,omitempty"`   // lies on a mount that ignores both
}

// Host is this host. env tells the variables of the caller's environment, nil
// means none.
func Host(env func(string) string) System {
	if env == nil {
		env = func(string) string { return "" }
	}
	return System{Root: os.DirFS("/"), Env: env, Getent: getent, Getsubids: getsubids, Program: findProgram}
}

// text is the content of a file without white space around it, "" if there is
// none.
func (s System) text(path string) string {
	b, err := fs.ReadFile(s.Root, path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (s System) exists(path string) bool {
	_, err := fs.Stat(s.Root, path)
	return err == nil
}

// lookupLimit bounds what a name service may take; pages of LDAP or a dead
// server must not keep a container from starting.
const lookupLimit = 2 * time.Second

// getent asks the host's name services, which a static program cannot do itself.
func getent(ctx context.Context, uid int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "getent", "passwd", strconv.Itoa(uid))
	cmd.WaitDelay = 100 * time.Millisecond
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("look up uid %d: %w", uid, err)
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line), nil
}

// getsubids asks the getsubids program, which honours nsswitch.conf.
func getsubids(uid int, user string) (u, g []Range, err error) {
	type answer struct {
		u, g []Range
		err  error
	}
	done := make(chan answer, 1)
	go func() { // rootlesskit knows no context
		uids, gids, err := dynidtools.GetSubIDRanges(uid, user)
		a := answer{err: err}
		for _, r := range uids {
			a.u = appendRange(a.u, int64(r.Start), int64(r.Length))
		}
		for _, r := range gids {
			a.g = appendRange(a.g, int64(r.Start), int64(r.Length))
		}
		done <- a
	}()
	select {
	case a := <-done:
		return a.u, a.g, a.err
	case <-time.After(4 * lookupLimit): // it asks four times
		return nil, nil, fmt.Errorf("run getsubids: no answer within %v", 4*lookupLimit)
	}
}

func findProgram(name string) ProgramFile {
	path, err := exec.LookPath(name)
	if err != nil {
		return ProgramFile{}
	}
	p := ProgramFile{Path: path}
	if info, err := os.Stat(path); err == nil {
		p.Setuid = info.Mode()&fs.ModeSetuid != 0
	}
	if n, err := unix.Getxattr(path, "security.capability", nil); err == nil && n > 0 {
		p.FileCaps = true
	}
	var mount unix.Statfs_t
	if err := unix.Statfs(path, &mount); err == nil {
		p.NoSuid = mount.Flags&unix.ST_NOSUID != 0
	}
	return p
}
