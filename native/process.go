package native

import (
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/coracle-runtime/coracle/oci"
)

// process fills in what the payload is, save its environment.
func (p *planner) process() error {
	proc := &p.plan.Process
	proc.UID, proc.GID = p.uid, p.gid
	proc.Umask = p.h.Umask
	if p.o.NoUmask {
		proc.Umask = 0o022
	}
	proc.Cwd = p.workingDirs()
	return p.capabilities(proc)
}

// setAction says what x init has to resolve inside.
func (p *planner) setAction(inject variables) (err error) {
	proc := &p.plan.Process
	// What would do instead in an image of SingularityCE, if nobody resolved the action.
	proc.Args = append([]string{"/.singularity.d/actions/" + string(p.cmd.Kind)}, p.cmd.Args...)
	proc.Action, err = json.Marshal(action{Kind: p.cmd.Kind, Args: p.cmd.Args, Inject: inject, NoEval: p.o.NoEval, Scripts: p.scripts()})
	return err
}

// workingDirs are the directories to try: the one asked for, then the home.
func (p *planner) workingDirs() []string {
	first := p.h.Cwd
	switch {
	case p.o.Cwd != "":
		first = path.Join("/", p.o.Cwd)
	case p.o.Contain:
		first = p.home.target
	}
	dirs := []string{first, p.home.target}
	return slices.Compact(slices.DeleteFunc(dirs, func(d string) bool { return d == "" }))
}

// capabilities decides what the payload may do inside its user namespace; none
// of it reaches the host. As in SingularityCE root has all, others have none
// and cannot gain any; unlike there, who asks for some gets them.
func (p *planner) capabilities(proc *oci.Process) error {
	add, err := capNames(p.o.AddCaps)
	if err != nil {
		return err
	}
	drop, err := capNames(p.o.DropCaps)
	if err != nil {
		return err
	}
	have := []string(nil)
	switch {
	case p.o.NoPrivs:
	case p.uid == 0 || p.o.KeepPrivs:
		have = allCaps[:]
	}
	set := slices.DeleteFunc(slices.Clone(allCaps[:]), func(c string) bool {
		return slices.Contains(drop, c) || !slices.Contains(have, c) && !slices.Contains(add, c)
	})
	proc.KeepCaps = len(set) > 0
	if proc.KeepCaps && len(set) < len(allCaps) {
		proc.Bounding = set
	}
	proc.NoNewPrivs = !proc.KeepCaps && !p.o.AllowSetuid
	return nil
}

// CapError is a capability that there is not.
type CapError struct{ Name string }

func (e *CapError) Error() string { return "unknown capability: " + e.Name }

// capNames reads a comma separated list, with or without CAP_, in any case.
func capNames(list string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.ToUpper(strings.TrimSpace(name))
		switch {
		case name == "":
			continue
		case name == "ALL":
			return allCaps[:], nil
		case !strings.HasPrefix(name, "CAP_"):
			name = "CAP_" + name
		}
		if !slices.Contains(allCaps[:], name) {
			return nil, &CapError{Name: name}
		}
		names = append(names, name)
	}
	return names, nil
}

// allCaps are the kernel's capabilities in their order (uapi/linux/capability.h).
var allCaps = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}
