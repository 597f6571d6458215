package userns

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// byEngine picks the lines for the engine and the CI service that were
// recognised, or all of them where none was. Those of "" are always added.
func byEngine(e Engine, lines map[string][]string) (picked []string) {
	for _, name := range []string{e.Name, e.CI} {
		if name != "" {
			picked = append(picked, lines[name]...)
		}
	}
	if len(picked) == 0 {
		for _, name := range []string{"docker", "podman", "gitlab", "codespaces", "kubernetes"} {
			picked = append(picked, lines[name]...)
		}
	}
	return append(picked, lines[""]...)
}

func seccompCures(e Engine) []Cure {
	lines := byEngine(e, map[string][]string{
		"docker": {"docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --device /dev/fuse …",
			"narrower: coracle doctor --print-seccomp >nest.json; docker run --security-opt seccomp=nest.json …"},
		"podman":     {"podman run --security-opt seccomp=unconfined --device /dev/fuse …   (rootless Podman's own filter allows it)"},
		"gitlab":     {"[runners.docker] security_opt = [\"seccomp:unconfined\", \"apparmor:unconfined\"], devices = [\"/dev/fuse\"]"},
		"codespaces": {"\"runArgs\": [\"--device=/dev/fuse\", \"--security-opt=seccomp=unconfined\", \"--security-opt=apparmor=unconfined\"]   (in devcontainer.json)"},
		"github":     {"container: {options: --security-opt seccomp=unconfined --security-opt apparmor=unconfined --device /dev/fuse}"},
		"kubernetes": {"seccompProfile: {type: Unconfined}     (in securityContext; or Localhost with the output of coracle doctor --print-seccomp; with AppArmor also appArmorProfile: {type: Unconfined})"},
	})
	if e.Name != "podman" {
		lines = append(lines, "rootless `podman run` needs none of this")
	}
	return []Cure{{Starter, "", lines}}
}

func appArmorText(step Step, errno syscall.Errno, f Facts) string {
	text := fmt.Sprintf("blocked by AppArmor (%s=1; failed at: %s, %s).\n"+
		"Ubuntu 23.10 and later allow user namespaces only to programs that have an AppArmor profile for their path; %s has none.",
		sysctlAppArmor, step, unix.ErrnoName(errno), f.Exe)
	if f.inContainer() {
		text += "\nThe setting is the host's: ask for it there."
	}
	return text
}

// appArmorCures has the profile that frees this one program, so that nobody
// needs to switch the restriction off.
func appArmorCures(f Facts) []Cure {
	name := strings.ReplaceAll(strings.Trim(f.Exe, "/"), "/", ".")
	profile := []string{
		"sudo tee /etc/apparmor.d/" + name + " >/dev/null <<'X'",
		"abi <abi/4.0>,",
		"include <tunables/global>",
		"profile " + name + " " + quoted(f.Exe) + " flags=(unconfined) {",
		"  userns,",
		"  include if exists <local/" + name + ">",
		"}",
		"X",
		"sudo apparmor_parser -r /etc/apparmor.d/" + name,
	}
	cures := []Cure{
		{Admin, "for this program only:", profile},
		{Admin, "or for all programs:", []string{setSysctl(sysctlAppArmor, "0")}},
	}
	if f.Engine.CI == "github" {
		cures = append(cures, Cure{You, "in a workflow on ubuntu-24.04:", []string{"sudo sysctl -w " + sysctlAppArmor + "=0"}})
	}
	if f.Podman {
		cures = append(cures, Cure{You, "podman has a profile; inside of it this may work without any change:", []string{"podman unshare " + f.Exe + " …"}})
	}
	return cures
}

// quoted is for a path in a profile, which may hold spaces.
func quoted(path string) string {
	if strings.ContainsAny(path, " \t\"") {
		return `"` + strings.ReplaceAll(path, `"`, `\"`) + `"`
	}
	return path
}

func lsm(f Facts) string {
	if f.SELinux {
		return fmt.Sprintf("SELinux (label %q)", f.Label)
	}
	if !f.unconfined() {
		return fmt.Sprintf("AppArmor profile %q", f.Label)
	}
	return "a security module of the host"
}

func lsmCures(f Facts) []Cure {
	if f.SELinux {
		cures := []Cure{{Admin, "see which rule it was:", []string{"sudo ausearch -m AVC -ts recent"}}}
		if f.inContainer() {
			cures = append(cures, Cure{Starter, "", []string{"podman run --security-opt label=disable …     (docker likewise)"}})
		}
		return cures
	}
	if !f.inContainer() {
		return []Cure{{Admin, "see which rule it was:", []string{"sudo journalctl -k --grep 'apparmor=\"DENIED\"' --since -5min"}}}
	}
	return []Cure{{Starter, "", byEngine(f.Engine, map[string][]string{
		"docker":     {"docker run --security-opt apparmor=unconfined …"},
		"podman":     {"podman run --security-opt apparmor=unconfined …"},
		"gitlab":     {"[runners.docker] security_opt = [\"apparmor:unconfined\", \"seccomp:unconfined\"]"},
		"codespaces": {"\"runArgs\": [\"--security-opt=apparmor=unconfined\"]     (in devcontainer.json)"},
		"kubernetes": {"appArmorProfile: {type: Unconfined}     (in securityContext)"},
	})}}
}

func setSysctl(name, value string) string {
	return fmt.Sprintf("echo %s=%s | sudo tee /etc/sysctl.d/90-userns.conf && sudo sysctl --system", name, value)
}

func explainNoSubIDs(e *NoSubIDsError, f Facts) Finding {
	found := Finding{ID: "ids", Status: Info, Cause: "no-subids", Title: "more than one id",
		Text: fmt.Sprintf("%s has no range of subordinate ids on %s: no entry in %s, and getsubids knows none.\n"+
			"--fakeroot, OCI mode and builds have one id only; changes of owner are emulated.", e.User, e.Host, e.File)}
	if e.NotVisible {
		found.Cause = "subids-not-visible"
		found.Text = fmt.Sprintf("the subordinate ids of %s do not exist in this container, which has %s.\n"+
			"--fakeroot, OCI mode and builds have one id only; changes of owner are emulated.", e.User, countIDs(f.UIDs))
	}
	if e.NotVisible || f.inContainer() {
		found.Cures = []Cure{{Starter, "make us root of that container, whose ids are used as they are:", byEngine(f.Engine, map[string][]string{
			"docker": {"docker run --user 0 …"}, "podman": {"podman run --user 0 …"}, "kubernetes": {"runAsUser: 0     (in securityContext)"}})}}
		return found
	}
	found.Cures = []Cure{{Admin, "pick a block that no other user has:", []string{addSubIDs(e.User)}},
		{Admin, "or, where a directory service has them (SSSD, FreeIPA), in /etc/nsswitch.conf:", []string{"subid: sss"}}}
	return found
}

func countIDs(extents []Extent) string {
	n := Map{UID: extents}.Count()
	if n == 1 {
		return "one id"
	}
	return fmt.Sprintf("%d ids", n)
}

func explainHelper(e *HelperError, f Facts) Finding {
	found := Finding{ID: "ids", Status: Info, Cause: "helper", Title: "more than one id"}
	const less = "\n--fakeroot, OCI mode and builds have one id only; changes of owner are emulated."
	file := f.NewUIDMap
	if e.Program == "newgidmap" {
		file = f.NewGIDMap
	}
	say := func(cause, text string, cures ...Cure) Finding {
		found.Cause, found.Text, found.Cures = cause, text+less, cures
		return found
	}
	setcap := []string{"sudo setcap cap_setuid=ep " + or(f.NewUIDMap.Path, "/usr/bin/newuidmap"), "sudo setcap cap_setgid=ep " + or(f.NewGIDMap.Path, "/usr/bin/newgidmap")}
	switch {
	case e.Missing():
		return say("helper-missing", e.Program+" is not installed.", Cure{Admin, "", []string{"sudo " + installHelper(f.Distribution)}})
	case e.NoNewPrivs || f.NoNewPrivs:
		return say("no-new-privs", "no_new_privs is set: "+e.Program+" cannot gain privileges.",
			Cure{Starter, "leave out what sets it:", []string{"docker: no-new-privileges; Kubernetes: allowPrivilegeEscalation: false; systemd: NoNewPrivileges=; Flatpak"}})
	case strings.Contains(e.Said, "owned by a different user"):
		return say("helper-group", e.Program+" refuses: the group of this process is not your primary one.",
			Cure{You, "leave newgrp or sg, or the batch system's group option, and try again", nil})
	case file.NoSuid:
		return say("helper-nosuid", fmt.Sprintf("%s lies on a file system that is mounted nosuid and gains no privileges.", e.Path),
			Cure{Admin, "mount it without nosuid, or install the programs elsewhere", nil})
	case file.Setuid && f.inContainer():
		return say("helper-setuid", fmt.Sprintf("%s failed (%s): the setuid kind cannot write maps in a container.", e.Path, or(e.Said, e.Err.Error())),
			Cure{Starter, "in the image, as root:", append([]string{"chmod u-s " + f.NewUIDMap.Path + " " + f.NewGIDMap.Path}, setcap...)})
	case !file.Setuid && !file.FileCaps:
		return say("helper-unprivileged", fmt.Sprintf("%s has neither the setuid bit nor file capabilities, which copying an image easily loses.", e.Path), Cure{Admin, "", setcap})
	}
	return say("helper-failed", fmt.Sprintf("%s failed: %s.", e.Path, or(e.Said, e.Err.Error())),
		Cure{Admin, "reinstall it:", []string{"sudo " + installHelper(f.Distribution)}})
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func installHelper(distribution string) string {
	switch {
	case strings.Contains(distribution, "alpine"):
		return "apk add shadow-subids"
	case strings.Contains(distribution, "fedora"), strings.Contains(distribution, "rhel"), strings.Contains(distribution, "centos"):
		return "dnf reinstall shadow-utils"
	case strings.Contains(distribution, "suse"):
		return "zypper install shadow"
	case strings.Contains(distribution, "arch"):
		return "pacman -S shadow"
	}
	return "apt-get install --reinstall uidmap"
}
