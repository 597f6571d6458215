package userns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// system is a host of plain files.
func system(files map[string]string, env map[string]string) System {
	root := fstest.MapFS{}
	for name, content := range files {
		root[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return System{Root: root, Env: func(n string) string { return env[n] },
		Program: func(string) ProgramFile { return ProgramFile{} },
		Getent:  func(context.Context, int) (string, error) { return "", errors.New("none") }}
}

const (
	hostMap     = "         0          0 4294967295\n"
	aliceStatus = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t27 1000 \nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t0\nSeccomp:\t0\n"
	dockerMount = "600 500 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a\n601 600 0:51 / /proc rw,nosuid - proc proc rw\n" +
		"602 601 0:52 /null /proc/kcore rw - tmpfs tmpfs rw\n603 601 0:52 /null /proc/keys rw - tmpfs tmpfs rw\n604 600 8:1 /hosts /etc/hosts rw - ext4 /dev/sda rw\n"
)

func ubuntu() map[string]string {
	return map[string]string{
		"proc/self/status": aliceStatus, "proc/self/uid_map": hostMap, "proc/self/gid_map": hostMap, "proc/self/setgroups": "allow\n",
		"proc/sys/kernel/osrelease": "6.8.0-45-generic\n", "proc/version": "Linux version 6.8.0-45-generic (buildd@x)\n",
		"proc/sys/kernel/hostname": "box\n", "proc/sys/user/max_user_namespaces": "63000\n",
		"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n", "proc/sys/kernel/unprivileged_userns_clone": "1\n",
		"proc/self/attr/apparmor/current": "unconfined\n", "proc/self/mountinfo": "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 30 0:5 / /proc rw,nosuid - proc proc rw,hidepid=invisible\n41 40 0:6 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n",
		"proc/filesystems": "nodev\toverlay\nnodev\tfuse\n\text4\n", "etc/os-release": "ID=ubuntu\nID_LIKE=\"debian\"\n",
		"etc/passwd":       "alice:x:1000:1000::/home/alice:/bin/bash\n",
		"proc/self/limits": "Limit                     Soft Limit           Hard Limit           Units     \nMax processes             300                  300                  processes \nMax address space         unlimited            unlimited            bytes     \n",
	}
}

func docker() map[string]string {
	files := ubuntu()
	files[".dockerenv"] = ""
	files["proc/self/mountinfo"] = dockerMount
	files["proc/self/attr/apparmor/current"] = "docker-default (enforce)\n"
	files["proc/self/status"] = strings.Replace(aliceStatus, "Seccomp:\t0", "Seccomp:\t2", 1)
	files["proc/sys/kernel/apparmor_restrict_unprivileged_userns"] = ""
	files["proc/self/uid_map"] = hostMap
	return files
}

func TestReadFacts(t *testing.T) {
	s := system(ubuntu(), nil)
	s.Root.(fstest.MapFS)["proc/self/exe"] = &fstest.MapFile{Data: []byte("/home/alice/bin/coracle"), Mode: fs.ModeSymlink | 0o777}
	s.Root.(fstest.MapFS)["dev/fuse"] = &fstest.MapFile{Sys: &syscall.Stat_t{Mode: unix.S_IFCHR | 0o600, Rdev: unix.Mkdev(10, 229)}}
	got := s.ReadFacts(t.Context())
	host := []Extent{{0, 0, 4294967295}}
	want := Facts{
		Caller: Caller{UID: 1000, GID: 1000, UIDs: host, GIDs: host, Host: "box",
			User: User{Name: "alice", UID: 1000, GID: 1000, Home: "/home/alice", Shell: "/bin/bash", Found: "passwd"}},
		Exe: "/home/alice/bin/coracle", Kernel: "6.8.0-45-generic", Distribution: "ubuntu debian",
		CapBnd: 0x1ffffffffff, Groups: []int{27, 1000}, Setgroups: "allow",
		Sysctls: map[string]string{"user.max_user_namespaces": "63000", sysctlAppArmor: "1", sysctlClone: "1"},
		Label:   "unconfined", HidePID: "invisible", Overlay: true, Limits: map[string]uint64{"Max processes": 300},
		Fuse: Device{Exists: true, Mode: unix.S_IFCHR | 0o600, Rdev: unix.Mkdev(10, 229), Loaded: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	if !got.Fuse.isFuse() {
		t.Error("not taken for /dev/fuse")
	}
}

func TestEngine(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		env   map[string]string
		want  Engine
	}{
		{"host", map[string]string{"proc/self/mountinfo": "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n"}, nil, Engine{}},
		{"virtual machine made from an image", map[string]string{".dockerenv": "", "proc/self/mountinfo": "30 1 8:1 / / rw - ext4 /dev/vda rw\n"}, nil, Engine{}},
		{"docker", map[string]string{".dockerenv": "", "proc/self/mountinfo": dockerMount}, nil, Engine{Name: "docker"}},
		{"docker with cgroup v1", map[string]string{"proc/1/cgroup": "3:cpu:/docker/0123\n"}, nil, Engine{Name: "docker"}},
		{"podman", map[string]string{"run/.containerenv": "engine=\"podman-4.3.1\"\nrootless=1\n"}, nil, Engine{Name: "podman", Rootless: true}},
		{"pod", map[string]string{"proc/self/mountinfo": dockerMount}, map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, Engine{Name: "kubernetes"}},
		{"gitlab job", map[string]string{".dockerenv": "", "proc/self/mountinfo": dockerMount}, map[string]string{"GITLAB_CI": "true"}, Engine{Name: "docker", CI: "gitlab"}},
		{"codespace", map[string]string{".dockerenv": "", "proc/self/mountinfo": dockerMount}, map[string]string{"CODESPACES": "true", "GITHUB_ACTIONS": "true"}, Engine{Name: "docker", CI: "github"}},
		{"nspawn", nil, map[string]string{"container": "systemd-nspawn"}, Engine{Name: "systemd-nspawn"}},
		{"something", map[string]string{"proc/self/mountinfo": dockerMount}, nil, Engine{Name: "container"}},
	} {
		s := system(c.files, c.env)
		if got := s.engine(s.mounts()); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestExplain is the table of causes: what the kernel said, on which host, and
// what has to be told. Rows that no test machine can host are here only.
func TestExplain(t *testing.T) {
	change := func(files map[string]string, pairs ...string) map[string]string {
		for i := 0; i < len(pairs); i += 2 {
			files[pairs[i]] = pairs[i+1]
		}
		return files
	}
	rootless := strings.Replace(aliceStatus, "Uid:\t1000\t1000", "Uid:\t0\t0", 1)
	free := change(ubuntu(), "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0")
	selinux := change(ubuntu(), "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "", "sys/fs/selinux/enforce", "1",
		"proc/self/attr/apparmor/current", "", "proc/self/attr/current", "unconfined_u:unconfined_r:unconfined_t:s0\x00")
	for _, c := range []struct {
		name  string
		files map[string]string
		env   map[string]string
		step  Step
		errno syscall.Errno
		id    string
		cause string
		says  []string
	}{
		{"ubuntu clone EACCES", ubuntu(), nil, StepClone, unix.EACCES, "userns", "apparmor-restrict", []string{"failed at: create namespaces, EACCES", "profile home.alice.bin.coracle /home/alice/bin/coracle flags=(unconfined)", "sudo apparmor_parser -r /etc/apparmor.d/home.alice.bin.coracle"}},
		{"ubuntu clone EPERM", ubuntu(), nil, StepClone, unix.EPERM, "userns", "apparmor-restrict", []string{"or for all programs:", "90-userns.conf"}},
		{"ubuntu setgroups", ubuntu(), nil, StepSetgroups, unix.EACCES, "userns", "apparmor-restrict", []string{"write /proc/self/setgroups, EACCES"}},
		{"ubuntu first mount", ubuntu(), nil, StepPropagation, unix.EACCES, "userns", "apparmor-restrict", []string{"make mounts private, EACCES"}},
		{"ubuntu in a workflow", ubuntu(), map[string]string{"GITHUB_ACTIONS": "true"}, StepClone, unix.EPERM, "userns", "apparmor-restrict", []string{"sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"}},
		{"docker", docker(), nil, StepClone, unix.EPERM, "userns", "seccomp", []string{"No sysctl will help", "docker run --security-opt seccomp=unconfined"}},
		{"docker in gitlab", docker(), map[string]string{"GITLAB_CI": "1"}, StepClone, unix.EPERM, "userns", "seccomp", []string{"[runners.docker]"}},
		{"kubernetes", docker(), map[string]string{"KUBERNETES_SERVICE_HOST": "x"}, StepClone, unix.EPERM, "userns", "seccomp", []string{"seccompProfile: {type: Unconfined}"}},
		{"docker on ubuntu, apparmor off", change(docker(), "proc/self/attr/apparmor/current", "unconfined", "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "proc/self/status", aliceStatus), nil, StepClone, unix.EPERM, "userns", "apparmor-restrict", []string{"The setting is the host's"}},
		{"docker denies mounts", docker(), nil, StepPropagation, unix.EACCES, "mounts", "lsm", []string{`AppArmor profile "docker-default"`, "docker run --security-opt apparmor=unconfined"}},
		{"seccomp denies mounts", docker(), nil, StepTmpfs, unix.EPERM, "mounts", "seccomp", []string{"seccomp=unconfined"}},
		{"selinux denies mounts", selinux, nil, StepTmpfs, unix.EACCES, "mounts", "lsm", []string{`SELinux (label "unconfined_u:`, "ausearch"}},
		{"selinux denies userns", selinux, nil, StepClone, unix.EACCES, "userns", "lsm", []string{"ausearch"}},
		{"limit 0", change(free, "proc/sys/user/max_user_namespaces", "0"), nil, StepClone, unix.ENOSPC, "userns", "limit", []string{"disabled by a limit (user.max_user_namespaces is 0", "not a full disk", "echo user.max_user_namespaces=15000"}},
		{"limit of PID namespaces", change(ubuntu(), "proc/sys/user/max_pid_namespaces", "0"), nil, StepClone, unix.ENOSPC, "userns", "limit", []string{"user.max_pid_namespaces is 0"}},
		{"limit reached in a pod", docker(), map[string]string{"KUBERNETES_SERVICE_HOST": "x"}, StepClone, unix.ENOSPC, "userns", "limit", []string{"user.max_user_namespaces is 63000 here", "on the host or node, not in this container"}},
		{"nested 33 deep", change(ubuntu(), "proc/self/uid_map", "0 1000 1\n"), nil, StepClone, unix.ENOSPC, "userns", "limit", []string{"nested 33 deep"}},
		{"nested, older kernel", ubuntu(), nil, StepClone, unix.EUSERS, "userns", "nesting", []string{"nested too deep"}},
		{"no kernel support", ubuntu(), nil, StepClone, unix.EINVAL, "userns", "no-kernel-support", []string{"CONFIG_USER_NS"}},
		{"debian 10", change(ubuntu(), "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "", "proc/sys/kernel/unprivileged_userns_clone", "0"), nil, StepClone, unix.EPERM, "userns", "sysctl-clone", []string{"kernel.unprivileged_userns_clone=1"}},
		{"chroot", change(ubuntu(), "proc/self/mountinfo", "40 30 0:5 / /mnt rw - proc proc rw\n"), nil, StepClone, unix.EPERM, "userns", "chroot", []string{"pivot_root"}},
		{"root without capabilities", change(docker(), "proc/self/status", strings.Replace(rootless, "Seccomp:\t0", "Seccomp:\t2", 1)), nil, StepUIDMap, unix.EPERM, "userns", "no-setfcap", []string{"--user 1000", "--cap-add SETFCAP"}},
		{"processes", change(ubuntu()), nil, StepClone, unix.EAGAIN, "userns", "nproc", []string{"RLIMIT_NPROC is 300"}},
		{"WSL 1", change(ubuntu(), "proc/sys/kernel/osrelease", "4.4.0-19041-Microsoft", "proc/version", "Linux version 4.4.0-19041-Microsoft (Microsoft@x)"), nil, StepClone, unix.EINVAL, "userns", "wsl1", []string{"wsl --set-version"}},
		{"filter of a unit", change(ubuntu(), "proc/self/status", strings.Replace(aliceStatus, "Seccomp:\t0", "Seccomp:\t2", 1), "proc/sys/kernel/apparmor_restrict_unprivileged_userns", ""), nil, StepClone, unix.EPERM, "userns", "seccomp", []string{"RestrictNamespaces="}},
		{"nobody knows", change(ubuntu(), "proc/sys/kernel/apparmor_restrict_unprivileged_userns", ""), nil, StepClone, unix.EPERM, "userns", "unknown", []string{"coracle doctor --json"}},
		{"masked proc", docker(), nil, StepProc, unix.EPERM, "pid", "masked-proc", []string{"/proc/kcore /proc/keys (2 entries)", "systempaths=unconfined"}},
		{"masked proc, podman", change(docker(), "run/.containerenv", "rootless=1"), nil, StepProc, unix.EPERM, "pid", "masked-proc", []string{"unmask=/proc/*"}},
		{"no fuse in docker", docker(), nil, StepFuseOpen, unix.ENOENT, "fuse", "no-device", []string{"docker run --device /dev/fuse"}},
		{"no fuse in bwrap", change(ubuntu(), "proc/self/uid_map", "1000 1000 1\n"), nil, StepFuseOpen, unix.ENOENT, "fuse", "no-device", []string{"bwrap --dev-bind /dev/fuse"}},
		{"no fuse on a host", change(ubuntu(), "proc/filesystems", "ext4\n"), nil, StepFuseOpen, unix.ENOENT, "fuse", "no-device", []string{"sudo modprobe fuse"}},
		{"device cgroup", docker(), nil, StepFuseOpen, unix.EPERM, "fuse", "device-cgroup", []string{"mknod does not help"}},
		{"fuse mode", ubuntu(), nil, StepFuseOpen, unix.EACCES, "fuse", "device-mode", []string{"chmod 666"}},
		{"fuse module", ubuntu(), nil, StepFuseOpen, unix.ENODEV, "fuse", "no-module", []string{"modprobe"}},
		{"fuse before 4.18", change(ubuntu(), "proc/sys/kernel/osrelease", "4.15.0-20-generic"), nil, StepFuseMount, unix.EPERM, "fuse", "old-kernel", []string{"4.15.0-20-generic", "needs 4.18"}},
		{"overlay before 5.11", change(ubuntu(), "proc/sys/kernel/osrelease", "5.4.0"), nil, StepOverlay, unix.EPERM, "overlay", "old-kernel", []string{"needs 5.11"}},
		{"overlay module", ubuntu(), nil, StepOverlay, unix.ENODEV, "overlay", "no-module", []string{"modprobe overlay"}},
		{"no root switch", docker(), nil, StepMove, unix.EPERM, "root", "no-pivot-root", []string{"Containers inside"}},
		{"another step", ubuntu(), nil, StepExec, unix.ENOEXEC, "start", "refused", []string{"execute program"}},
	} {
		s := system(c.files, c.env)
		s.Root.(fstest.MapFS)["proc/self/exe"] = &fstest.MapFile{Data: []byte("/home/alice/bin/coracle"), Mode: fs.ModeSymlink | 0o777}
		err := fmt.Errorf("run alpine.sif: %w", &StartError{Step: c.step, Err: c.errno})
		got := Diagnose(err, s.ReadFacts(t.Context()))
		if got == nil || got.ID != c.id || got.Cause != c.cause || got.Errno != unix.ErrnoName(c.errno) {
			t.Errorf("%s: %+v, want %s %s", c.name, got, c.id, c.cause)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(got.String(), text) {
				t.Errorf("%s: missing %q in\n%s", c.name, text, got)
			}
		}
		for _, cure := range got.Cures {
			if text := cure.Text + strings.Join(cure.Lines, ""); text == "" || !strings.Contains(got.Hint(), cure.Text) {
				t.Errorf("%s: hint\n%s", c.name, got.Hint())
			}
		}
	}
	if Diagnose(errors.New("else"), Facts{}) != nil {
		t.Error("an error of another kind was explained")
	}
}

func TestExplainHelper(t *testing.T) {
	setuid := ProgramFile{Path: "/usr/bin/newuidmap", Setuid: true}
	for _, c := range []struct {
		name  string
		err   error
		facts Facts
		cause string
		says  string
	}{
		{"missing on alpine", &HelperError{Program: "newuidmap", Err: exec.ErrNotFound}, Facts{Distribution: "alpine"}, "helper-missing", "apk add shadow-subids"},
		{"missing on rocky", &HelperError{Program: "newuidmap", Err: exec.ErrNotFound}, Facts{Distribution: "rocky rhel centos fedora"}, "helper-missing", "shadow-utils"},
		{"no_new_privs", &HelperError{Program: "newuidmap", NoNewPrivs: true}, Facts{}, "no-new-privs", "allowPrivilegeEscalation"},
		{"newgrp", &HelperError{Program: "newgidmap", Said: "newgidmap: Target 7 is owned by a different user", Err: errors.New("exit status 1")}, Facts{}, "helper-group", "newgrp"},
		{"setuid in docker", &HelperError{Program: "newuidmap", Path: setuid.Path, Said: "newuidmap: write to uid_map failed: Operation not permitted", Err: errors.New("exit status 1")},
			Facts{Engine: Engine{Name: "docker"}, Caller: Caller{NewUIDMap: setuid}}, "helper-setuid", "setcap cap_setuid=ep /usr/bin/newuidmap"},
		{"lost bits", &HelperError{Program: "newuidmap", Path: setuid.Path, Err: errors.New("exit status 1")}, Facts{Caller: Caller{NewUIDMap: ProgramFile{Path: setuid.Path}}}, "helper-unprivileged", "setcap"},
		{"nosuid", &HelperError{Program: "newuidmap", Path: setuid.Path, Err: errors.New("exit status 1")}, Facts{Caller: Caller{NewUIDMap: ProgramFile{Path: setuid.Path, Setuid: true, NoSuid: true}}}, "helper-nosuid", "nosuid"},
		{"else", &HelperError{Program: "newuidmap", Path: setuid.Path, Err: errors.New("exit status 1")}, Facts{Caller: Caller{NewUIDMap: setuid}}, "helper-failed", "exit status 1"},
		{"no sub-ids", &NoSubIDsError{User: "alice", Host: "c123", File: "/etc/subuid"}, Facts{}, "no-subids", "--add-subuids 100000-165535 --add-subgids 100000-165535 alice"},
		{"not in this container", &NoSubIDsError{User: "alice", NotVisible: true}, Facts{Caller: Caller{UIDs: []Extent{{0, 0, 65536}}}}, "subids-not-visible", "which has 65536 ids"},
	} {
		got := Diagnose(c.err, c.facts)
		if got == nil || got.ID != "ids" || got.Status != Info || got.Cause != c.cause || !strings.Contains(got.String(), c.says) {
			t.Errorf("%s: %+v, want %s with %q", c.name, got, c.cause, c.says)
		}
	}
}
