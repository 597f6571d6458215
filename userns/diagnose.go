package userns

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Diagnose puts an error of [Process.Start], [Choose] or a mount into words: the
// finding that doctor would print. It is nil for an error of another kind.
func Diagnose(err error, f Facts) *Finding {
	var refused *StartError
	var helper *HelperError
	var none *NoSubIDsError
	var found Finding
	switch {
	case errors.As(err, &refused):
		found = explain(refused.Step, refused.Err, f)
	case errors.As(err, &helper):
		found = explainHelper(helper, f)
	case errors.As(err, &none):
		found = explainNoSubIDs(none, f)
	default:
		return nil
	}
	return &found
}

// explain knows the meaning of each errno at each step. The order inside is from
// the surest reason to the vaguest.
func explain(step Step, errno syscall.Errno, f Facts) Finding {
	var found Finding
	switch step {
	case StepClone, StepSetgroups, StepUIDMap, StepGIDMap, StepCaps, StepIDs:
		found = explainUserns(step, errno, f)
	case StepPropagation, StepTmpfs, StepBind, StepRemount:
		found = explainMount(step, errno, f)
	case StepProc:
		found = explainProc(f)
	case StepFuseOpen, StepFuseMount:
		found = explainFuse(step, errno, f)
	case StepOverlay, StepOverlayUse:
		found = explainOverlay(errno, f)
	case StepPivot, StepMove:
		found = Finding{ID: "root", Cause: "no-pivot-root", Status: Warn, Title: "root switch",
			Text: fmt.Sprintf("neither pivot_root nor a moved mount works (%s: %v).\nContainers inside of containers started here will not work.", step, errno)}
	default:
		found = Finding{ID: "start", Cause: "refused", Status: Fail, Title: "start", Text: fmt.Sprintf("%s: %v", step, errno)}
	}
	found.Step, found.Errno = step, unix.ErrnoName(errno)
	return found
}

// explainUserns is for a refusal before anything was mounted.
func explainUserns(step Step, errno syscall.Errno, f Facts) Finding {
	found := Finding{ID: "userns", Status: Fail, Title: "user namespaces"}
	say := func(cause, text string, cures ...Cure) Finding {
		found.Cause, found.Text, found.Cures = cause, text, cures
		return found
	}
	denied := errno == unix.EPERM || errno == unix.EACCES
	switch {
	case f.Platform == "WSL1":
		return say("wsl1", "WSL 1 is no Linux kernel and has no namespaces.",
			Cure{You, "in PowerShell, for the distribution in use:", []string{"wsl --set-version NAME 2"}})
	case step == StepClone && errno == unix.EPERM && f.Chroot:
		return say("chroot", "this is a chroot, and the kernel forbids user namespaces there.",
			Cure{Starter, "enter the tree with pivot_root in place of chroot, for instance:", []string{"bwrap --bind TREE / --dev /dev --proc /proc sh"}})
	case errno == unix.EPERM && step == StepUIDMap && f.UID == 0 && !f.Caps.Has(unix.CAP_SETFCAP):
		return say("no-setfcap", "uid 0 without CAP_SETFCAP: the kernel refuses to map uid 0 (Linux 5.12 and later).",
			Cure{Starter, "run the job as a normal user, or give root that capability:", []string{
				"docker run --user 1000 …        (Kubernetes: runAsUser: 1000)", "docker run --cap-add SETFCAP …"}})
	case step == StepClone && errno == unix.EPERM && f.Seccomp == 2 && f.inContainer():
		return say("seccomp", "blocked by the seccomp filter of the outer container (clone: EPERM). No sysctl will help.", seccompCures(f.Engine)...)
	case denied && f.Sysctls[sysctlAppArmor] == "1" && f.unconfined() && !f.Caps.Has(unix.CAP_SYS_ADMIN):
		return say("apparmor-restrict", appArmorText(step, errno, f), appArmorCures(f)...)
	case errno == unix.EACCES && !f.unconfined():
		return say("lsm", fmt.Sprintf("denied by %s (%s).", lsm(f), step), lsmCures(f)...)
	case step == StepClone && denied && f.Sysctls[sysctlClone] == "0":
		return say("sysctl-clone", sysctlClone+" is 0: user namespaces are for root only here.",
			Cure{Admin, "", []string{setSysctl(sysctlClone, "1")}})
	case step == StepClone && (errno == unix.ENOSPC || errno == unix.EUSERS):
		return say(explainLimit(errno, f))
	case step == StepClone && (errno == unix.EINVAL || errno == unix.ENOSYS):
		return say("no-kernel-support", "the kernel has no user namespaces (CONFIG_USER_NS is off, or this is an EL7 kernel).",
			Cure{Admin, "a kernel of version 5.11 or later is recommended; EL7 allows them with:", []string{"sudo grubby --args=user_namespace.enable=1 --update-kernel=ALL", setSysctl("user.max_user_namespaces", "15000")}})
	case step == StepClone && errno == unix.EAGAIN:
		return say("nproc", fmt.Sprintf("no more processes are allowed (RLIMIT_NPROC is %s, or pids.max of the cgroup).", f.limit("Max processes")),
			Cure{You, "see what is running, and raise the limit:", []string{"ps -u $USER | wc -l; ulimit -u"}})
	case step == StepClone && errno == unix.EPERM && f.Seccomp == 2:
		return say("seccomp", "blocked by a seccomp filter of the program that started us (clone: EPERM). No sysctl will help.",
			Cure{You, "start from a plain login; sandboxes such as systemd units (RestrictNamespaces=), Flatpak and Snap block this", nil})
	}
	return say("unknown", fmt.Sprintf("refused at: %s: %v. The reason is not known to us.", step, errno),
		Cure{Us, "please report this, with the output of:", []string{"coracle doctor --json"}})
}

// explainLimit is for counters, which the kernel reports as a full disk.
func explainLimit(errno syscall.Errno, f Facts) (cause, text string, cure Cure) {
	if errno == unix.EUSERS {
		return "nesting", "namespaces are nested too deep (the kernel allows 32).", Cure{You, "start from a container further out", nil}
	}
	name, value := "user.max_user_namespaces", f.Sysctls["user.max_user_namespaces"]
	for _, n := range sysctlNames() {
		if f.Sysctls[n] == "0" && strings.HasPrefix(n, "user.max_") {
			name, value = n, "0"
			break
		}
	}
	if value == "" {
		value = "unknown"
	}
	text = fmt.Sprintf("the limit on namespaces is reached (%s is %s here", name, value)
	if value == "0" {
		text = fmt.Sprintf("disabled by a limit (%s is 0 here", name)
	}
	text += "; an outer namespace or the node may be lower still). This is not a full disk."
	if f.nested() {
		text += "\nNamespaces nested 33 deep give the same error."
	}
	cure = Cure{Admin, "", []string{setSysctl(name, "15000")}}
	if f.inContainer() {
		cure.Text = "on the host or node, not in this container:"
	}
	return "limit", text, cure
}

// nested tells whether we are in a user namespace of somebody's.
func (f Facts) nested() bool {
	return len(f.UIDs) > 0 && (len(f.UIDs) > 1 || f.UIDs[0] != Extent{0, 0, 4294967295})
}

func (f Facts) limit(name string) string {
	if n, ok := f.Limits[name]; ok {
		return fmt.Sprint(n)
	}
	return "unlimited"
}

// explainMount: seccomp answers EPERM, security modules EACCES.
func explainMount(step Step, errno syscall.Errno, f Facts) Finding {
	found := Finding{ID: "mounts", Status: Fail, Title: "mounts"}
	switch {
	case errno == unix.EACCES && f.Sysctls[sysctlAppArmor] == "1" && f.unconfined():
		found.ID, found.Title, found.Cause = "userns", "user namespaces", "apparmor-restrict"
		found.Text, found.Cures = appArmorText(step, errno, f), appArmorCures(f)
	case errno == unix.EACCES:
		found.Cause, found.Text, found.Cures = "lsm", fmt.Sprintf("denied by %s (%s).", lsm(f), step), lsmCures(f)
	case errno == unix.EPERM && f.Seccomp == 2 && step != StepRemount:
		found.Cause, found.Text, found.Cures = "seccomp", fmt.Sprintf("blocked by the seccomp filter of the outer container (%s: EPERM).", step), seccompCures(f.Engine)
	case errno == unix.ENOSPC:
		found.Cause, found.Text = "limit", "the kernel's limit on mounts is reached (fs.mount-max). This is not a full disk."
		found.Cures = []Cure{{Admin, "", []string{setSysctl("fs.mount-max", "100000")}}}
	default:
		found.Cause, found.Text = "unknown", fmt.Sprintf("refused at: %s: %v. The reason is not known to us.", step, errno)
		found.Cures = []Cure{{Us, "please report this, with the output of:", []string{"coracle doctor --json"}}}
	}
	return found
}

func explainProc(f Facts) Finding {
	found := Finding{ID: "pid", Status: Warn, Cause: "masked-proc", Title: "--pid, --containall",
		Text: "degraded: /proc cannot be mounted anew. Processes of the outside stay visible."}
	if len(f.Masked) > 0 {
		found.Text = fmt.Sprintf("degraded: /proc of the outer container is masked at: %s (%d entries).\nProcesses of the outer container stay visible.",
			strings.Join(f.Masked[:min(3, len(f.Masked))], " "), len(f.Masked))
	}
	lines := byEngine(f.Engine, map[string][]string{
		"docker":     {"docker run --security-opt systempaths=unconfined …"},
		"podman":     {"podman run --security-opt 'unmask=/proc/*' …"},
		"kubernetes": {"procMount: Unmasked     (in securityContext, with hostUsers: false in the pod)"},
		"":           {"where only volumes can be set: -v /proc:/hostproc   (exposes the processes of the host)"},
	})
	found.Cures = []Cure{{Starter, "", lines}}
	return found
}

func explainFuse(step Step, errno syscall.Errno, f Facts) Finding {
	found := Finding{ID: "fuse", Status: Warn, Title: "FUSE"}
	const unpacked = "Images are unpacked before each start: slower, and it takes space."
	device := Cure{Starter, "", byEngine(f.Engine, map[string][]string{
		"docker":     {"docker run --device /dev/fuse …"},
		"podman":     {"podman run --device /dev/fuse …"},
		"kubernetes": {"a device plugin for /dev/fuse, or with CRI-O the annotation io.kubernetes.cri-o.Devices: \"/dev/fuse\""},
		"gitlab":     {"[runners.docker] devices = [\"/dev/fuse\"]"},
		"codespaces": {"\"runArgs\": [\"--device=/dev/fuse\"]     (in devcontainer.json)"},
		"":           {"bwrap --dev-bind /dev/fuse /dev/fuse …"},
	})}
	module := Cure{Admin, "", []string{"sudo modprobe fuse"}}
	say := func(cause, text string, cures ...Cure) Finding {
		found.Cause, found.Text, found.Cures = cause, text+"\n"+unpacked, cures
		return found
	}
	switch {
	case step == StepFuseMount && errno == unix.EPERM && f.kernelBefore(4, 18):
		return say("old-kernel", fmt.Sprintf("kernel %s: FUSE in user namespaces needs 4.18.", f.Kernel))
	case step == StepFuseMount && errno == unix.EACCES:
		return say("lsm", fmt.Sprintf("the mount is denied by %s.", lsm(f)), lsmCures(f)...)
	case step == StepFuseMount && errno == unix.ENODEV:
		return say("no-module", "the kernel has no fuse file system.", module)
	case step == StepFuseMount:
		return say("unknown", fmt.Sprintf("mount fuse: %v.", errno), Cure{Us, "please report this, with the output of:", []string{"coracle doctor --json"}})
	case errno == unix.ENOENT && f.inContainer():
		return say("no-device", "there is no /dev/fuse in this container.", device)
	case errno == unix.ENOENT && f.Fuse.Loaded:
		return say("no-device", "there is no /dev/fuse here, although the kernel knows FUSE.", device)
	case errno == unix.ENOENT:
		return say("no-device", "there is no /dev/fuse here.", module)
	case errno == unix.EPERM:
		return say("device-cgroup", "/dev/fuse exists, but the device cgroup of the outer container refuses it (mknod does not help).", device)
	case errno == unix.EACCES && f.Fuse.Mode&0o6 != 0o6:
		return say("device-mode", fmt.Sprintf("/dev/fuse may not be opened (mode %04o).", f.Fuse.Mode&0o7777), Cure{Admin, "", []string{"sudo chmod 666 /dev/fuse"}})
	case errno == unix.EACCES:
		return say("lsm", fmt.Sprintf("/dev/fuse is denied by %s.", lsm(f)), lsmCures(f)...)
	}
	return say("no-module", fmt.Sprintf("the fuse module is not loaded (open /dev/fuse: %v).", errno), module)
}

func explainOverlay(errno syscall.Errno, f Facts) Finding {
	found := Finding{ID: "overlay", Status: Info, Cause: "refused", Title: "kernel overlayfs",
		Text: fmt.Sprintf("not usable in a user namespace here (%v): our FUSE overlay is used in its place, which is slower.", errno)}
	switch {
	case errno == unix.ENODEV:
		found.Cause = "no-module"
		found.Cures = []Cure{{Admin, "", []string{"sudo modprobe overlay"}}}
	case f.kernelBefore(5, 11):
		found.Cause = "old-kernel"
		found.Text = fmt.Sprintf("kernel %s: overlayfs in user namespaces needs 5.11. Our FUSE overlay is used in its place, which is slower.", f.Kernel)
	}
	return found
}
