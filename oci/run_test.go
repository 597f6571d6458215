package oci

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPayloadSeesItsPlan(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		p := planFor(t, root, "payload", "look", "two words")
		p.Process.Cwd = []string{"/no/such", "/etc"}
		p.Process.Umask = 0o27
		s, r := look(t, p)
		if r.stderr != "" {
			t.Errorf("stderr: %s", r.stderr)
		}
		if want := []string{"payload", "look", "two words"}; !slices.Equal(s.Args, want) {
			t.Errorf("args %q, want %q", s.Args, want)
		}
		if !slices.Equal(s.Env, p.Process.Env) {
			t.Errorf("environment %q, want %q", s.Env, p.Process.Env)
		}
		if s.Cwd != "/etc" || s.Umask != 0o27 {
			t.Errorf("cwd %s, umask %o", s.Cwd, s.Umask)
		}
		if s.UID != os.Getuid() || s.GID != os.Getgid() {
			t.Errorf("ids %d:%d", s.UID, s.GID)
		}
		for _, set := range []string{"CapEff", "CapPrm", "CapInh", "CapAmb"} {
			if s.Status[set] != "0000000000000000" {
				t.Errorf("%s %s, want none", set, s.Status[set])
			}
		}
		if s.Status["NoNewPrivs"] != "1" {
			t.Error("no_new_privs is not set")
		}
		if s.Pgrp != unix.Getpgrp() {
			t.Errorf("process group %d, want the caller's %d", s.Pgrp, unix.Getpgrp())
		}
		if want := inheritable(t); !slices.Equal(s.Descriptors, want) {
			t.Errorf("descriptors %v, want %v", s.Descriptors, want)
		}
		for _, line := range strings.Split(strings.TrimSpace(s.Mounts), "\n") {
			point := strings.Fields(line)[4]
			if point != "/" && !strings.HasPrefix(point, "/proc") && !strings.HasPrefix(point, "/sys") && !strings.HasPrefix(point, "/dev") {
				t.Errorf("a mount of the host is left: %s", line)
			}
		}
	})
}

// inheritable lists the descriptors that this process gives to every child.
func inheritable(t *testing.T) []int {
	t.Helper()
	list := []int{0, 1, 2}
	for fd := 3; fd < 256; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			list = append(list, fd)
		}
	}
	return list
}

func TestRootIsReadOnly(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		r := run(t, planFor(t, root, "payload", "write", "/etc/new", "x"))
		if r.code != 1 || !strings.Contains(r.stderr, "read-only file system") {
			t.Errorf("code %d, stderr %s", r.code, r.stderr)
		}
	})
}

func TestWriteTmpfs(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		p := planFor(t, root, "payload", "write", "/etc/hello", "changed")
		p.Root.Write, p.Root.TmpfsMB = WriteTmpfs, 16
		p.Root.Entries = []Entry{{Path: "/made/here", Mode: unix.S_IFREG | 0o600, Content: []byte("generated")}}
		if r := run(t, p); r.code != 0 {
			t.Fatalf("write: code %d, stderr %s", r.code, r.stderr)
		}
		p.Process.Args = []string{"payload", "cat", "/etc/hello", "/made/here"}
		if r := run(t, p); r.stdout != "hello\ngenerated" {
			t.Errorf("a later run sees %q (%s)", r.stdout, r.stderr)
		}
		p.Process.Args = []string{"payload", "look"}
		s, _ := look(t, p)
		if n := strings.Count(s.Mounts, " / / "); n != 1 {
			t.Errorf("%d mounts on /, want the overlay alone:\n%s", n, s.Mounts)
		}
	})
}

func TestWriteDirect(t *testing.T) {
	needsContainers(t)
	root := sandbox(t)
	p := planFor(t, root, "payload", "write", "/etc/new", "kept")
	p.Root.Write = WriteDirect
	p.Root.Entries = []Entry{
		{Path: "/etc/passwd", Mode: unix.S_IFREG | 0o644, Content: []byte("generated")},
		{Path: "/home/me", Mode: unix.S_IFDIR | 0o755},
	}
	p.Mounts = append(p.Mounts, Mount{Type: "bind", Source: "/tmp", Target: "/home/me", Tag: "home"})
	r := run(t, p)
	if r.code != 0 {
		t.Fatalf("code %d, stderr %s", r.code, r.stderr)
	}
	if want := "Skipping mount /tmp [home]: /home/me doesn't exist in container"; !strings.Contains(r.stderr, want) {
		t.Errorf("stderr %q lacks %q", r.stderr, want)
	}
	if b, _ := os.ReadFile(filepath.Join(root, "etc/new")); string(b) != "kept" {
		t.Errorf("the sandbox has %q", b)
	}
	if _, err := os.Stat(filepath.Join(root, "home")); err == nil {
		t.Error("a mount point was made in the sandbox")
	}
	p.Process.Args = []string{"payload", "cat", "/etc/passwd"}
	if r := run(t, p); r.stdout != "generated" {
		t.Errorf("passwd inside is %q", r.stdout)
	}
	if b, _ := os.ReadFile(filepath.Join(root, "etc/passwd")); !strings.HasPrefix(string(b), "root:") {
		t.Errorf("passwd of the sandbox was changed to %q", b)
	}
}

func TestEntriesAppear(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		p := planFor(t, root, "payload", "cat", "/etc/passwd", "/etc/extra", "/home/me/file", "/etc/hello")
		p.Root.Entries = []Entry{
			{Path: "/etc/passwd", Mode: unix.S_IFREG | 0o644, Content: []byte("1")},
			{Path: "/etc/extra", Mode: unix.S_IFREG | 0o644, Content: []byte("2")},
			{Path: "/home/me", Mode: unix.S_IFDIR | 0o755},
		}
		home := t.TempDir()
		if err := os.WriteFile(home+"/file", []byte("3"), 0o644); err != nil {
			t.Fatal(err)
		}
		p.Mounts = append(p.Mounts, Mount{Type: "rbind", Source: home, Target: "/home/me"})
		if r := run(t, p); r.stdout != "123hello\n" {
			t.Errorf("%q, code %d, stderr %s", r.stdout, r.code, r.stderr)
		}
	})
}

func TestMounts(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		host := t.TempDir()
		if err := os.WriteFile(host+"/file", []byte("from the host"), 0o644); err != nil {
			t.Fatal(err)
		}
		p := planFor(t, root, "payload", "look")
		p.Mounts = append(p.Mounts,
			Mount{Type: "bind", Source: host, Target: "/var/run", Flags: unix.MS_RDONLY | unix.MS_NOSUID},
			Mount{Type: "bind", Source: host + "/file", Target: "/etc/hello"},
			Mount{Type: "tmpfs", Target: "/tmp", Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: "mode=1777,size=1m"},
			Mount{Type: "bind", Source: host + "/file", Target: "/tmp/deep/er/file", Mkdir: true},
			Mount{Type: "symlink", Target: "/tmp/link", Symlink: "deep"},
			Mount{Type: "bind", Source: "/no/such/source", Target: "/root", Optional: true},
			Mount{Type: "bind", Source: "/no/such/source", Target: "/root", Optional: true, Warn: "left out"},
			Mount{Type: "sysfs", Target: "/sys", Else: &Mount{Type: "rbind", Source: "/sys", Target: "/sys"}},
		)
		s, r := look(t, p)
		if strings.Count(r.stderr, "left out") != 1 || strings.Contains(r.stderr, "/no/such") {
			t.Errorf("stderr %s", r.stderr)
		}
		for point, flags := range map[string]string{"/run": "ro,nosuid", "/etc/hello": "rw", "/tmp": "rw,nosuid,nodev", "/tmp/deep/er/file": "rw"} {
			if !strings.Contains(s.Mounts, " "+point+" "+flags) {
				t.Errorf("no mount on %s with %s in\n%s", point, flags, s.Mounts)
			}
		}
		p.Process.Args = []string{"payload", "cat", "/etc/hello", "/tmp/link/er/file", "/run/file"}
		if r := run(t, p); r.stdout != strings.Repeat("from the host", 3) {
			t.Errorf("%q (%s)", r.stdout, r.stderr)
		}
	})
}

func TestMountErrors(t *testing.T) {
	needsContainers(t)
	root := sandbox(t)
	for _, c := range []struct {
		mount Mount
		want  string
	}{
		{Mount{Type: "bind", Source: "/no/such", Target: "/tmp"}, "mount source /no/such doesn't exist"},
		{Mount{Type: "bind", Source: "/tmp", Target: "/no/target"}, "mount /tmp on /no/target: doesn't exist in container"},
		{Mount{Type: "bind", Source: "/tmp", Target: "/etc/hello"}, "mount /tmp on /etc/hello: not a directory"},
		{Mount{Type: "nofs", Target: "/tmp"}, "mount nofs on /tmp: no such device"},
	} {
		p := planFor(t, root, "payload", "look")
		p.Mounts = append(p.Mounts, c.mount)
		if r := run(t, p); r.code != 255 || !strings.Contains(r.stderr, c.want) {
			t.Errorf("%+v: code %d, %s; want %s", c.mount, r.code, r.stderr, c.want)
		}
	}
}

func TestExecErrors(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		for _, stays := range []bool{false, true} {
			for _, c := range []struct{ name, want string }{
				{"nosuchcmd", `"nosuchcmd": executable file not found in $PATH`},
				{"plain", "permission denied"},
				{"/bin/plain", "permission denied"},
				{"/etc", "permission denied"},
				{"/bin/nothing", "stat /bin/nothing: no such file or directory"},
				{"/bin/interpreted", "exec /bin/interpreted failed: a shared library is likely missing in the image"},
				{"foreign", "image targets 'EM_BPF', cannot run on"},
				{"", "no command to execute"},
			} {
				p := planFor(t, root, c.name)
				if stays {
					withPID(p, true)
				}
				if r := run(t, p); r.code != 255 || !strings.Contains(r.stderr, c.want) {
					t.Errorf("%q: code %d, %s", c.name, r.code, r.stderr)
				}
			}
			// ENOEXEC: /bin/sh, which is the payload here, gets the script.
			p := planFor(t, root, "script", "x")
			if stays {
				withPID(p, true)
			}
			if r := run(t, p); r.code != 99 || !strings.Contains(r.stderr, "unknown command /bin/script") {
				t.Errorf("script: code %d, %s", r.code, r.stderr)
			}
		}
	})
}

func withPID(p *Plan, init bool) {
	p.Namespaces.PID, p.Namespaces.Init = true, init
	p.Mounts[0] = Mount{Type: "proc", Target: "/proc", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC,
		Else: &Mount{Type: "rbind", Source: "/proc", Target: "/proc"}}
}

func needsProc(t testing.TB) { needs(t, "an unmasked /proc", procVisible()) }

func TestNamespaces(t *testing.T) {
	needsProc(t)
	onEveryRoot(t, func(t *testing.T, root string) {
		p := planFor(t, root, "payload", "look")
		withPID(p, false)
		p.Namespaces.IPC, p.Namespaces.UTS, p.Namespaces.Net = true, true, true
		p.Hostname = "inside"
		p.Mounts[1] = Mount{Type: "sysfs", Target: "/sys", Flags: unix.MS_RDONLY | unix.MS_NOSUID}
		p.Mounts = append(p.Mounts, Mount{Type: "tmpfs", Target: "/dev"},
			Mount{Type: "mqueue", Target: "/dev/mqueue", Mkdir: true},
			Mount{Type: "devpts", Target: "/dev/pts", Mkdir: true, Data: "newinstance,ptmxmode=0666,mode=0620"})
		s, r := look(t, p)
		if s.PID != 1 || s.Hostname != "inside" || strings.TrimSpace(s.Lo) != "0x9" || r.stderr != "" {
			t.Errorf("pid %d, host %s, lo %s, stderr %s", s.PID, s.Hostname, s.Lo, r.stderr)
		}
		p.Namespaces.Init = true
		s, _ = look(t, p)
		if s.PID == 1 || s.PPID != 1 {
			t.Errorf("pid %d of %d, want a child of 1", s.PID, s.PPID)
		}
		if s.Status["CapEff"] != "0000000000000000" || s.Status["NoNewPrivs"] != "1" {
			t.Errorf("capabilities %s, no_new_privs %s", s.Status["CapEff"], s.Status["NoNewPrivs"])
		}
	})
}

func TestInitReaps(t *testing.T) {
	needsProc(t)
	needsContainers(t)
	p := planFor(t, sandbox(t), "payload", "orphans", "5")
	withPID(p, true)
	if r := run(t, p); r.stdout != "zombies 0\n" {
		t.Errorf("%q (%s)", r.stdout, r.stderr)
	}
}

func TestStatus(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		for _, stays := range []bool{false, true} {
			check := func(code int, signal syscall.Signal, args ...string) {
				p := planFor(t, root, append([]string{"payload"}, args...)...)
				if stays {
					withPID(p, true)
				}
				r := run(t, p)
				if r.code != code || r.signal != signal {
					t.Errorf("%v: code %d signal %v, want %d %v (%s)", args, r.code, r.signal, code, signal, r.stderr)
				}
			}
			check(0, 0, "exit", "0")
			check(42, 0, "exit", "42")
			check(255, 0, "exit", "255")
			check(-1, unix.SIGTERM, "die", "15")
			check(-1, unix.SIGKILL, "die", "9")
			check(-1, unix.SIGHUP, "die", "1")
			if stays && !procVisible() {
				return
			}
		}
	})
}

func TestCapabilities(t *testing.T) {
	needsContainers(t)
	p := planFor(t, sandbox(t), "payload", "look")
	p.Process.KeepCaps = true
	p.Process.Bounding = []string{"CAP_CHOWN", "cap_kill"}
	s, _ := look(t, p)
	if want := "0000000000000021"; s.Status["CapEff"] != want || s.Status["CapBnd"] != want {
		t.Errorf("effective %s, bounding %s, want %s", s.Status["CapEff"], s.Status["CapBnd"], want)
	}
	p.Process.Bounding = nil
	s, _ = look(t, p)
	if s.Status["CapEff"] != s.Status["CapBnd"] || s.Status["CapEff"] == "0000000000000000" {
		t.Errorf("effective %s, bounding %s", s.Status["CapEff"], s.Status["CapBnd"])
	}
	p.Process.Bounding = []string{"CAP_NONSENSE"}
	if r := run(t, p); r.code != 255 || !strings.Contains(r.stderr, "keep capability CAP_NONSENSE") {
		t.Errorf("code %d, %s", r.code, r.stderr)
	}
}

func TestRootMapped(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		for _, keep := range []bool{true, false} {
			p := planFor(t, root, "payload", "look")
			p.IDs.UID[0].Inside, p.IDs.GID[0].Inside = 0, 0
			p.Process.UID, p.Process.GID, p.Process.KeepCaps = 0, 0, keep
			if p.Root.Image != nil {
				p.Root.Image.Owner = &[2]int{0, 0}
			}
			s, _ := look(t, p)
			if s.UID != 0 || s.GID != 0 || (s.Status["CapEff"] != "0000000000000000") != keep {
				t.Errorf("ids %d:%d, capabilities %s with keep %v", s.UID, s.GID, s.Status["CapEff"], keep)
			}
			p.Process.Args = []string{"payload", "stat", "/etc/hello"}
			if r := run(t, p); !strings.HasPrefix(r.stdout, "100644 0 0 ") {
				t.Errorf("owner: %s", r.stdout)
			}
		}
	})
}

func TestAction(t *testing.T) {
	needsContainers(t)
	p := planFor(t, sandbox(t), "payload", "look")
	p.Process.Action = json.RawMessage(`{"Env":"B=2","Warn":"careful"}`)
	s, r := look(t, p)
	if !slices.Contains(s.Env, "B=2") || strings.Count(r.stderr, "careful") != 1 {
		t.Errorf("environment %q, stderr %s", s.Env, r.stderr)
	}
	p.Process.Action = json.RawMessage(`{"Fail":"broken script"}`)
	if r := run(t, p); r.code != 255 || !strings.Contains(r.stderr, "FATAL: broken script") {
		t.Errorf("code %d, stderr %s", r.code, r.stderr)
	}
}

func TestPipesOfAnySize(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		const size = 32 << 20
		cmd := caller(t, planFor(t, root, "payload", "cat"))
		in := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
		cmd.Stdin = bytes.NewReader(in)
		hash := sha256.New()
		cmd.Stdout = hash
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if want := sha256.Sum256(in); !bytes.Equal(hash.Sum(nil), want[:]) {
			t.Error("the stream was changed")
		}
	})
}

// A pipe that the payload closes must be seen closed, whoever else was started
// with it.
func TestClosedPipeIsSeen(t *testing.T) {
	needsProc(t)
	onEveryRoot(t, func(t *testing.T, root string) {
		for _, stays := range []bool{false, true} {
			p := planFor(t, root, "payload", "close")
			if stays {
				withPID(p, true)
			}
			cmd := caller(t, p)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 6)
			if _, err := io.ReadFull(out, buf); err != nil || string(buf) != "ready\n" {
				t.Fatalf("%q, %v", buf, err)
			}
			// The caller itself keeps its copy.
			eventually(t, "only the caller holds the pipe", func() bool { return len(pipeHolders(t, out.(*os.File))) == 1 })
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
}

// pipeHolders lists the command lines of other processes with the pipe open.
func pipeHolders(t *testing.T, pipe *os.File) (holders []string) {
	t.Helper()
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", pipe.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, _ := os.Readlink(link); to != name || strings.HasPrefix(link, fmt.Sprintf("/proc/%d/", os.Getpid())) {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "cmdline"))
		holders = append(holders, strings.ReplaceAll(string(line), "\x00", " "))
	}
	return holders
}

func TestInheritedDescriptorsReachThePayload(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		cmd := caller(t, planFor(t, root, "payload", "cat", "/proc/self/fd/3", "/proc/self/fd/5"))
		var write []*os.File
		for range 3 {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.ExtraFiles = append(cmd.ExtraFiles, r)
			write = append(write, w)
		}
		go func() {
			for i, w := range write {
				fmt.Fprintf(w, "pipe %d\n", i+3)
				w.Close()
			}
		}()
		if r := finish(t, cmd); r.stdout != "pipe 3\npipe 5\n" {
			t.Errorf("%q (%s)", r.stdout, r.stderr)
		}
	})
}

func TestParallelRuns(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		var wg sync.WaitGroup
		for i := range 50 {
			cmd := caller(t, planFor(t, root, "payload", "exit", fmt.Sprint(i)))
			wg.Go(func() {
				out, err := cmd.CombinedOutput()
				if code := cmd.ProcessState.ExitCode(); code != i {
					t.Errorf("run %d: code %d, %v, %s", i, code, err, out)
				}
			})
		}
		wg.Wait()
	})
}

func TestNothingIsMountedOutside(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		before, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		p := planFor(t, root, "payload", "exit", "0")
		p.Root.Write = WriteTmpfs
		run(t, p)
		after, _ := os.ReadFile("/proc/self/mountinfo")
		for _, line := range strings.Split(string(after), "\n") {
			if strings.Contains(line, root) && !strings.Contains(string(before), line) {
				t.Errorf("left behind: %s", line)
			}
		}
	})
}

func TestDamagedImageIsReported(t *testing.T) {
	needsFUSE(t)
	name := image(t)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[8:], "\xff\xff\xff\xff") // times; harmless
	copy(b[96-32:], bytes.Repeat([]byte{0x7f}, 32))
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	r := run(t, planFor(t, name, "payload", "look"))
	if r.code != 255 || !strings.Contains(r.stderr, "read image "+name) {
		t.Errorf("code %d, stderr %s", r.code, r.stderr)
	}
	missing := planFor(t, name, "payload")
	os.Remove(name)
	if r := run(t, missing); r.code != 255 || !strings.Contains(r.stderr, "no such file") {
		t.Errorf("code %d, stderr %s", r.code, r.stderr)
	}
}

func TestInitRefusesToBeStartedByHand(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "x", "init")
	if err := cmd.Run(); err == nil {
		t.Error("x init went on without a plan")
	}
}
