package userns

import (
	"context"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Facts is what this host and the caller look like, read without side effects.
// They explain a refusal of the kernel; what works is found out by [Probe] only.
type Facts struct {
	Caller

	Exe          string `json:"exe"`    // this program, without symbolic links
	Kernel       string `json:"kernel"` // release, as uname -r tells it
	Platform     string `json:"platform,omitempty"`
	Distribution string `json:"distribution,omitempty"` // ID and ID_LIKE of os-release(5)

	CapBnd    Caps   `json:"capBnd"`
	Groups    []int  `json:"groups"`
	Seccomp   int    `json:"seccomp"`   // 0 none, 1 strict, 2 a filter
	Setgroups string `json:"setgroups"` // allow or deny, in the namespace we are in

	Sysctls map[string]string `json:"sysctls"` // those of sysctlNames that exist, by their dotted names
	Label   string            `json:"label"`   // of AppArmor or SELinux; "" without
	SELinux bool              `json:"selinux"` // enforcing

	Engine  Engine   `json:"engine"`
	Chroot  bool     `json:"chroot"`            // "/" is no mount point
	Masked  []string `json:"masked,omitempty"`  // what an outer container hides below /proc
	HidePID string   `json:"hidepid,omitempty"` // option of the mount of /proc

	Fuse    Device `json:"fuse"`
	Overlay bool   `json:"overlay"` // the kernel has overlayfs loaded or built in

	Limits map[string]uint64 `json:"limits"` // soft, by the names of /proc/self/limits; unlimited ones are left out
	Podman bool              `json:"podman"` // podman is on PATH
}

// Engine is the container that we ourselves are in.
type Engine struct {
	Name     string `json:"name,omitempty"` // docker, podman, kubernetes, lxc, …, container when unknown; "" on a host
	Rootless bool   `json:"rootless,omitempty"`
	CI       string `json:"ci,omitempty"` // gitlab, github or codespaces
}

// Device is /dev/fuse.
type Device struct {
	Exists bool   `json:"exists"`
	Mode   uint32 `json:"mode,omitempty"` // st_mode
	Rdev   uint64 `json:"rdev,omitempty"`
	Loaded bool   `json:"loaded"` // the kernel knows the fuse file system
}

func sysctlNames() []string {
	return []string{"user.max_user_namespaces", "user.max_mnt_namespaces", "user.max_pid_namespaces", "user.max_ipc_namespaces",
		"user.max_net_namespaces", "user.max_uts_namespaces", "user.max_cgroup_namespaces", sysctlClone, sysctlAppArmor,
		"kernel.apparmor_restrict_unprivileged_unconfined"}
}

const (
	sysctlClone    = "kernel.unprivileged_userns_clone"
	sysctlAppArmor = "kernel.apparmor_restrict_unprivileged_userns"
)

// ReadFacts reads all facts: some thirty small files, about a millisecond. What
// cannot be read is left at its zero value.
func (s System) ReadFacts(ctx context.Context) Facts {
	var f Facts
	f.Caller, _ = s.ReadCaller(ctx, Want{Ranges: true})
	s.readSubIDs(ctx, &f.Caller)
	if st, err := s.readStatus(); err == nil {
		f.CapBnd, f.Groups, f.Seccomp = st.capBnd, st.groups, st.seccomp
	}
	f.Exe, _ = fs.ReadLink(s.Root, "proc/self/exe")
	f.Kernel, f.Platform = s.kernel()
	f.Distribution = s.distribution()
	f.Setgroups = s.text("proc/self/setgroups")
	f.Sysctls = map[string]string{}
	for _, name := range sysctlNames() {
		if value := s.text("proc/sys/" + strings.ReplaceAll(name, ".", "/")); value != "" {
			f.Sysctls[name] = value
		}
	}
	if f.Label = s.text("proc/self/attr/apparmor/current"); f.Label == "" {
		f.Label = s.text("proc/self/attr/current")
	}
	f.Label, _, _ = strings.Cut(strings.TrimRight(f.Label, "\x00"), " (") // "docker-default (enforce)"
	f.SELinux = s.text("sys/fs/selinux/enforce") == "1"
	mounts := s.mounts()
	f.Engine = s.engine(mounts)
	f.Chroot, f.Masked, f.HidePID = aboutProc(mounts)
	f.Fuse, f.Overlay = s.fileSystems()
	f.Limits = s.limits()
	f.Podman = s.Program("podman").Path != ""
	return f
}

func (s System) kernel() (release, platform string) {
	release, version := s.text("proc/sys/kernel/osrelease"), s.text("proc/version")
	switch {
	case strings.Contains(version, "Microsoft") && strings.HasPrefix(release, "4.4."):
		platform = "WSL1"
	case strings.Contains(version, "gVisor") || release == "4.4.0" && strings.Contains(version, "Sun Jan 10 15:06:54 PST 2016"):
		platform = "gVisor" // pkg/sentry/kernel/version.go
	}
	return release, platform
}

func (s System) distribution() string {
	var names []string
	for line := range strings.SplitSeq(s.text("etc/os-release"), "\n") {
		if key, value, _ := strings.Cut(line, "="); key == "ID" || key == "ID_LIKE" {
			names = append(names, strings.Trim(value, `"'`))
		}
	}
	return strings.Join(names, " ")
}

// kernelBefore compares with major.minor; a release that is not understood is
// not before anything.
func (f Facts) kernelBefore(major, minor int) bool {
	numbers := strings.SplitN(f.Kernel, ".", 3)
	if len(numbers) < 2 {
		return false
	}
	a, err1 := strconv.Atoi(numbers[0])
	b, err2 := strconv.Atoi(strings.TrimRight(numbers[1], "+-abcdefghijklmnopqrstuvwxyz"))
	return err1 == nil && err2 == nil && (a < major || a == major && b < minor)
}

// mount is a line of /proc/self/mountinfo.
type mount struct{ point, kind, source, options string }

func (s System) mounts() (mounts []mount) {
	for line := range strings.SplitSeq(s.text("proc/self/mountinfo"), "\n") {
		before, after, found := strings.Cut(line, " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if !found || len(b) < 6 || len(a) < 2 {
			continue
		}
		m := mount{point: b[4], kind: a[0], source: a[1], options: b[5]}
		if len(a) > 2 {
			m.options += "," + a[2]
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// aboutProc tells whether "/" is missing from the mounts, which makes this a
// chroot, and what is mounted over parts of /proc. binfmt_misc has a directory of
// its own for that and hides nothing.
func aboutProc(mounts []mount) (chroot bool, masked []string, hidepid string) {
	chroot = len(mounts) > 0
	for _, m := range mounts {
		switch {
		case m.point == "/":
			chroot = false
		case m.point == "/proc":
			for o := range strings.SplitSeq(m.options, ",") {
				if value, ok := strings.CutPrefix(o, "hidepid="); ok {
					hidepid = value
				}
			}
		case strings.HasPrefix(m.point, "/proc/") && m.point != "/proc/sys/fs/binfmt_misc":
			masked = append(masked, m.point)
		}
	}
	slices.Sort(masked)
	return chroot, slices.Compact(masked), hidepid
}

func (s System) engine(mounts []mount) (e Engine) {
	for _, v := range []struct{ name, ci string }{{"GITLAB_CI", "gitlab"}, {"CODESPACES", "codespaces"}, {"GITHUB_ACTIONS", "github"}} {
		if s.Env(v.name) != "" {
			e.CI = v.ci
		}
	}
	if b, err := fs.ReadFile(s.Root, "run/.containerenv"); err == nil {
		e.Name, e.Rootless = "podman", strings.Contains(string(b), "rootless=1")
		return e
	}
	cgroup := s.text("proc/1/cgroup")
	switch {
	case s.Env("KUBERNETES_SERVICE_HOST") != "" || s.exists("run/secrets/kubernetes.io") || strings.Contains(cgroup, "kubepods"):
		e.Name = "kubernetes"
	case s.exists(".dockerenv") && containerMounts(mounts) || strings.Contains(cgroup, "/docker/"):
		e.Name = "docker"
	case s.Env("container") != "":
		e.Name = s.Env("container") // systemd's convention: lxc, systemd-nspawn, oci, flatpak, …
	case s.text("run/systemd/container") != "":
		e.Name = s.text("run/systemd/container")
	case slices.ContainsFunc(mounts, func(m mount) bool { return m.point == "/" && m.kind == "overlay" }):
		e.Name = "container"
	}
	return e
}

// containerMounts tells a container from a virtual machine that was made from an
// image and kept its /.dockerenv: engines mount the files of the network.
func containerMounts(mounts []mount) bool {
	return slices.ContainsFunc(mounts, func(m mount) bool {
		return m.point == "/" && m.kind == "overlay" || m.point == "/etc/hosts" || m.point == "/etc/resolv.conf"
	})
}

func (s System) fileSystems() (fuse Device, overlay bool) {
	for line := range strings.SplitSeq(s.text("proc/filesystems"), "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case f[len(f)-1] == "fuse":
			fuse.Loaded = true
		case f[len(f)-1] == "overlay":
			overlay = true
		}
	}
	if info, err := fs.Stat(s.Root, "dev/fuse"); err == nil {
		fuse.Exists = true
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			fuse.Mode, fuse.Rdev = st.Mode, uint64(st.Rdev)
		}
	}
	return fuse, overlay
}

// limits reads the soft limits; "Max address space" and the like are padded
// columns.
func (s System) limits() map[string]uint64 {
	limits := map[string]uint64{}
	for line := range strings.SplitSeq(s.text("proc/self/limits"), "\n") {
		if len(line) < 27 {
			continue
		}
		values := strings.Fields(line[26:])
		if n, err := strconv.ParseUint(values[0], 10, 64); err == nil {
			limits[strings.TrimSpace(line[:26])] = n
		}
	}
	return limits
}

// inContainer tells whether somebody else's flags decide: of an engine, or of a
// sandbox such as bwrap, which leaves no other trace than its id map.
func (f Facts) inContainer() bool { return f.Engine.Name != "" || f.nested() }

// unconfined tells that no security module has put us into a profile.
func (f Facts) unconfined() bool { return f.Label == "" || f.Label == "unconfined" }

// isFuse tells whether /dev/fuse is the device it should be.
func (d Device) isFuse() bool {
	return d.Exists && d.Mode&unix.S_IFMT == unix.S_IFCHR && d.Rdev == unix.Mkdev(10, 229)
}
