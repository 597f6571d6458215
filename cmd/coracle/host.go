package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/coracle-runtime/coracle/native"
	"github.com/coracle-runtime/coracle/userns"
)

// host collects what a plan needs to know of the caller and this machine.
// With oneID the map has no ids but the caller's.
func (a *app) host(ctx context.Context, fakeroot, oneID bool) (native.Host, error) {
	system := userns.Host(a.env.get)
	ids, err := a.chooseIDs(ctx, system, fakeroot, oneID)
	if err != nil {
		return native.Host{}, err
	}
	groups, err := callerGroups()
	if err != nil {
		return native.Host{}, err
	}
	u := system.LookupUser(ctx, os.Getuid(), os.Getgid())
	return native.Host{
		UID: os.Getuid(), GID: os.Getgid(), Groups: groups,
		User: native.User{Name: u.Name, Gecos: u.Gecos, Home: u.Home, Shell: u.Shell},
		Env:  a.env, Cwd: a.workingDir(), Umask: currentUmask(), TTY: terminal(),
		IDs: ids, Files: native.HostFiles{},
	}, nil
}

// chooseIDs picks the id map: the caller's own id, and all that can be had for
// --fakeroot and for root, whose files have many owners. Where there are no
// more ids one has to do.
func (a *app) chooseIDs(ctx context.Context, system userns.System, fakeroot, oneID bool) (userns.Map, error) {
	want := userns.Want{Root: fakeroot, Ranges: !oneID && (fakeroot || os.Geteuid() == 0)}
	caller, err := system.ReadCaller(ctx, want)
	if err != nil {
		return userns.Map{}, err
	}
	ids, err := userns.Choose(want, caller)
	if err == nil || !want.Ranges {
		return ids, err
	}
	if fakeroot {
		a.log.Info(fmt.Sprintf("--fakeroot goes on with a single id: %v", err))
		a.log.Log(ctx, levelVerbose, hintOf(err))
	}
	want.Ranges = false
	return userns.Choose(want, caller)
}

// workingDir is $PWD where that is the current directory, as a shell would say
// it, else what the kernel says.
func (a *app) workingDir() string {
	if pwd := a.env.get("PWD"); filepath.IsAbs(pwd) {
		var named, here unix.Stat_t
		if unix.Stat(pwd, &named) == nil && unix.Stat(".", &here) == nil && named.Dev == here.Dev && named.Ino == here.Ino {
			return filepath.Clean(pwd)
		}
	}
	buf := make([]byte, unix.PathMax)
	n, err := syscall.Getcwd(buf)
	if err != nil || n < 1 || buf[0] != '/' {
		return "/" // deleted, or outside of our root
	}
	return string(buf[:n-1])
}

// currentUmask reads the mask without a moment in which it is another.
func currentUmask() int {
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		if _, rest, ok := strings.Cut(string(status), "\nUmask:\t"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			if mask, err := strconv.ParseInt(line, 8, 32); err == nil {
				return int(mask)
			}
		}
	}
	mask := syscall.Umask(0o022)
	syscall.Umask(mask)
	return mask
}

// terminal returns the path of the terminal that one of the standard
// descriptors is.
func terminal() string {
	for _, fd := range []int{0, 1, 2} {
		if term.IsTerminal(fd) {
			if path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err == nil {
				return path
			}
		}
	}
	return ""
}

// callerGroups returns the primary and the supplementary groups with the names
// that /etc/group has for them.
func callerGroups() ([]native.Group, error) {
	ids, err := os.Getgroups()
	if err != nil {
		return nil, err
	}
	groups := []native.Group{{GID: os.Getgid()}}
	for _, id := range ids {
		if id != groups[0].GID {
			groups = append(groups, native.Group{GID: id})
		}
	}
	file, err := os.ReadFile("/etc/group")
	if err != nil {
		return groups, nil // ids without names are enough
	}
	names := map[string]string{}
	for line := range strings.Lines(string(file)) {
		if f := strings.SplitN(line, ":", 4); len(f) == 4 {
			names[f[2]] = f[0]
		}
	}
	for i := range groups {
		groups[i].Name = names[strconv.Itoa(groups[i].GID)]
	}
	return groups, nil
}
