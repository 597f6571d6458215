package native

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/oci"
	"github.com/coracle-runtime/coracle/userns"
)

var update = flag.Bool("update", false, "write testdata/*.json anew; read the differences before you commit them")

var (
	aliceIDs = oci.IDs{Method: userns.Single, UID: []userns.Extent{{Inside: 1000, Outside: 1000, Count: 1}}, GID: []userns.Extent{{Inside: 1000, Outside: 1000, Count: 1}}}
	rootIDs  = oci.IDs{Method: userns.Single, UID: []userns.Extent{{Inside: 0, Outside: 1000, Count: 1}}, GID: []userns.Extent{{Inside: 0, Outside: 1000, Count: 1}}}
	rangeIDs = oci.IDs{Method: userns.Helper,
		UID: []userns.Extent{{Inside: 0, Outside: 1000, Count: 1}, {Inside: 1, Outside: 100000, Count: 65536}},
		GID: []userns.Extent{{Inside: 0, Outside: 1000, Count: 1}, {Inside: 1, Outside: 100000, Count: 65536}}}
)

// alice is a caller on laptop.
func alice() Host {
	return Host{
		UID: 1000, GID: 1000, User: User{Name: "alice", Gecos: "Alice,,,", Home: "/home/alice", Shell: "/bin/zsh"},
		Groups: []Group{{1000, "alice"}, {100, "users"}, {5000, "gpu"}, {6000, ""}},
		Env:    []string{"HOME=/home/alice", "PATH=/home/alice/bin:/usr/bin", "LANG=de_DE.UTF-8", "TERM=xterm"},
		Cwd:    "/home/alice/project", Umask: 0o027, IDs: aliceIDs, Files: laptop,
	}
}

var (
	debianSIF     = rootSource{path: "/images/debian.sif", kind: "sif", offset: 40960, size: 1 << 20}
	debianSandbox = rootSource{path: "/images/debian", kind: "sandbox", dir: true}
)

// planCase is one golden plan.
type planCase struct {
	name   string
	cmd    Command
	source rootSource
	root   tree
	o      Options
	host   func(*Host)
}

func planCases() []planCase {
	fakeroot := func(h *Host) { h.IDs = rootIDs }
	at := func(dir string) func(*Host) { return func(h *Host) { h.Cwd = dir } }
	return []planCase{
		{name: "default"},
		{name: "default-sandbox", source: debianSandbox},
		{name: "run", cmd: Command{Kind: Run, Args: []string{"--flag", "a b"}}},
		{name: "shell", cmd: Command{Kind: Shell}, o: Options{Shell: "/bin/dash"}},
		{name: "unpacked", cmd: Command{Kind: Exec, Args: []string{"true"}, Container: "/images/debian.sif"},
			source: rootSource{path: "/tmp/rootfs-1/root", kind: "sandbox", dir: true}},
		{name: "scratch-image", root: busybox},
		{name: "contain", o: Options{Contain: true}},
		{name: "containall-tty", o: Options{ContainAll: true}, host: func(h *Host) { h.TTY = "/dev/pts/3" }},
		{name: "containall-pid", o: Options{ContainAll: true, PID: true}},
		{name: "containall-no-pid", o: Options{ContainAll: true, NoPID: true}},
		{name: "compat", o: Options{Compat: true}},
		{name: "contain-workdir", o: Options{Contain: true, Workdir: "/scratch/job", Scratch: []string{"/a,/b/c"}}},
		{name: "contain-home", o: Options{Contain: true, Home: "/scratch/job:/home/bob"}},
		{name: "contain-bind-dev", o: Options{Contain: true, Bind: []string{"/dev"}}},
		{name: "contain-bind-device", o: Options{Contain: true, Bind: []string{"/dev/nvidia0,/dev/null", "/dev/zero:/dev/one"}}},
		{name: "contain-no-devpts", o: Options{Contain: true, NoMount: []string{"devpts,tmp"}}},
		{name: "contain-net-none", o: Options{Contain: true, Net: true, Network: "none", DNS: "192.0.2.7, 2001:db8::1"}},
		{name: "writable", source: debianSandbox, o: Options{Writable: true, WritableTmpfs: true}, host: at("/scratch/job")},
		{name: "writable-fakeroot", source: debianSandbox, o: Options{Writable: true, Fakeroot: true}, host: fakeroot},
		{name: "writable-contain", source: debianSandbox, root: debian.without("/var/tmp/"), o: Options{Writable: true, Contain: true}},
		{name: "writable-tmpfs", o: Options{WritableTmpfs: true}},
		{name: "fakeroot", o: Options{Fakeroot: true}, host: fakeroot},
		{name: "fakeroot-ranges", o: Options{Fakeroot: true, Net: true}, host: func(h *Host) { h.IDs = rangeIDs }},
		{name: "home", o: Options{Home: "/scratch/job"}},
		{name: "home-target", o: Options{Home: "job:/work/home"}, host: at("/scratch")},
		{name: "no-home", o: Options{NoHome: true}},
		{name: "home-missing", host: func(h *Host) { h.User.Home, h.Cwd = "/home/gone", "/" }},
		{name: "home-root", host: func(h *Host) { h.User.Home, h.Cwd = "/", "/" }},
		{name: "home-in-tmp", host: func(h *Host) { h.User.Home, h.Cwd = "/tmp/h", "/tmp/h/x"; h.Files = laptop.with(tree{"/tmp/h/x/": ""}) }},
		{name: "home-in-tmp-contain", o: Options{Contain: true}, host: func(h *Host) { h.User.Home = "/tmp/h" }},
		{name: "no-mount", o: Options{NoMount: []string{"proc,sys,dev,home,tmp,cwd", "bind-paths", "nonsense"}}},
		{name: "no-mount-paths", o: Options{NoMount: []string{"/etc/hosts", "/etc/resolv.conf"}}},
		{name: "scratch", o: Options{Scratch: []string{"/work/s"}}},
		{name: "binds", o: Options{
			Bind:  []string{"/data", "/scratch:/mnt/s:ro,/data/set.csv:/opt/in.csv", "run1:/opt/run"},
			Mount: []string{"type=bind,source=/usr/lib,dest=/hostlib,ro", "type=tmpfs,dst=/var/cache/x,tmpfs-size=1g"},
		}, host: at("/data/alice")},
		{name: "bind-through-links", o: Options{Bind: []string{"/data:/var/run/d", "/data/set.csv:/lib/set.csv"}}},
		{name: "bind-on-bind", o: Options{Bind: []string{"/data:/mnt", "/scratch:/mnt/alice"}}},
		{name: "bind-in-scratch", o: Options{Scratch: []string{"/s"}, Bind: []string{"/data/set.csv:/s/deep/set.csv"}}},
		{name: "cwd-outside", host: at("/scratch/job")},
		{name: "cwd-bound", host: at("/data/alice/run1"), o: Options{Bind: []string{"/data"}}},
		{name: "cwd-link", host: at("/work/alice")},
		{name: "cwd-link-in-home", host: at("/home/alice/data/run1")},
		{name: "cwd-link-differs", host: at("/work/alice"), root: debian.with(tree{"/work": "-> /opt/w"})},
		{name: "cwd-system", host: at("/bin")},
		{name: "cwd-file-in-image", host: at("/scratch/job"), root: debian.with(tree{"/scratch/job": "file"})},
		{name: "cwd-missing-in-bind", host: at("/scratch/job"), o: Options{Bind: []string{"/data:/scratch"}}},
		{name: "pwd", o: Options{Cwd: "opt"}},
		{name: "var-tmp-link", root: debian.without("/var/tmp/").with(tree{"/var/tmp": "-> ../tmp"})},
		{name: "resolv-run", host: func(h *Host) {
			h.Files = laptop.with(tree{"/etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf": "nameserver 127.0.0.53\n"})
		}},
		{name: "resolv-link", host: func(h *Host) {
			h.Files = laptop.with(tree{"/etc/resolv.conf": "-> /mnt/wsl/resolv.conf", "/mnt/wsl/resolv.conf": "nameserver 192.0.2.9\n"})
		}},
		{name: "bare-host", host: func(h *Host) {
			h.Files = tree{"/proc/": "", "/sys/": "", "/dev/null": "dev"}
			h.User = User{}
			h.Groups = nil
			h.Cwd = "/"
		}},
		{name: "namespaces", o: Options{PID: true, NoInit: true, IPC: true, Hostname: "box.example", Userns: true}},
		{name: "caps-user", o: Options{AddCaps: "net_raw,CAP_CHOWN"}},
		{name: "caps-root", o: Options{Fakeroot: true, DropCaps: "all", AddCaps: "chown", NoUmask: true}, host: fakeroot},
		{name: "no-privs", o: Options{Fakeroot: true, NoPrivs: true}, host: fakeroot},
		{name: "keep-privs", o: Options{KeepPrivs: true, NoCompat: true}},
		{name: "real-root", host: func(h *Host) {
			h.UID, h.GID, h.User, h.Cwd = 0, 0, User{"root", "root", "/root", "/bin/sh"}, "/root"
			h.Groups, h.IDs, h.Files = []Group{{0, "root"}}, rangeIDs, laptop.with(tree{"/root/": ""})
		}},
		{name: "environment", o: Options{
			Bind: []string{"/data"}, NoEval: true, App: "foo",
			Env:      []string{"A=1,B=$HOME", "C=x,y", "PATH=/opt/bin", "HOME=/x", "DUP=flag"},
			EnvFiles: []EnvFile{{"one.env", []byte("F=\"${LANG} $0\"\nDUP=file\nG=1\n")}, {"two.env", []byte("G=${G:-2}; UID=7\n# c\nexport H=3\n")}},
		}, host: func(h *Host) {
			h.Env = append(h.Env, "SINGULARITYENV_A=host", "APPTAINERENV_Z=apptainer", "SINGULARITYENV_Z=singularity", "CORACLEENV_Z=coracle",
				"SINGULARITYENV_PREPEND_PATH=/pre", "APPTAINERENV_APPEND_PATH=/post", "SINGULARITYENV_HOME=/no", "SINGULARITYENV_9x=1",
				"SINGULARITY_BINDPATH=/x", "CORACLE_DEBUG=1", "APPTAINER_TMPDIR=/x", "LD_LIBRARY_PATH=/l", "SINGULARITYENV_LD_LIBRARY_PATH=/mine",
				"BASH_FUNC_module%%=() { :; }", "PYTHONPATH=/home/alice/py", "A=plain", "EMPTY=", "NL=a\nb", "no_proxy=x")
		}},
		{name: "cleanenv", o: Options{CleanEnv: true, Env: []string{"X=1"}}, host: func(h *Host) {
			h.Env = append(h.Env, "SINGULARITYENV_FORCE=1", "HOST_VAR=1", "HTTPS_PROXY=p", "Https_Proxy=q", "SINGULARITYENV_LANG=en_GB")
		}},
	}
}

func (c planCase) plan() (*oci.Plan, []Warning, error) {
	h := alice()
	if c.host != nil {
		c.host(&h)
	}
	if c.source == (rootSource{}) {
		c.source = debianSIF
	}
	if c.root == nil {
		c.root = debian
	}
	if c.cmd.Kind == "" {
		c.cmd = Command{Kind: Exec, Args: []string{"true"}}
	}
	return plan(c.cmd, c.source, c.root, c.o, h)
}

// TestPlans compares plans with testdata. They have been reviewed by hand
// against SingularityCE's behaviour; a difference is a decision.
func TestPlans(t *testing.T) {
	known := map[string]bool{}
	for _, c := range planCases() {
		file := filepath.Join("testdata", c.name+".json")
		known[file] = true
		t.Run(c.name, func(t *testing.T) {
			p, warnings, err := c.plan()
			if err != nil {
				t.Fatal(err)
			}
			got := readable(t, p, warnings)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("plan differs (-want +got); -update if that is wanted:\n%s", diff)
			}
		})
	}
	files, _ := filepath.Glob("testdata/*.json")
	for _, f := range files {
		if !known[f] {
			t.Errorf("%s belongs to no test", f)
		}
	}
}

// readable writes a plan as JSON for people: flags and modes by name, contents
// as text, the action in place.
func readable(t *testing.T, p *oci.Plan, warnings []Warning) []byte {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	root, _ := m["root"].(map[string]any)
	if entries, ok := root["entries"].([]any); ok {
		for i, e := range p.Root.Entries {
			entries[i] = entryLine(e)
		}
	}
	mounts, _ := m["mounts"].([]any)
	for i, mnt := range p.Mounts {
		mounts[i] = mountLine(mnt)
	}
	lines := []string{}
	for _, w := range warnings {
		level := w.Level.String()
		if w.Level == slog.LevelInfo-1 {
			level = "VERBOSE"
		}
		lines = append(lines, level+": "+w.Text)
	}
	m["warnings"] = lines
	delete(m, "ids")
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func entryLine(e oci.Entry) string {
	kind := map[uint32]string{unix.S_IFDIR: "dir", unix.S_IFREG: "file", unix.S_IFLNK: "link"}[e.Mode&unix.S_IFMT]
	line := fmt.Sprintf("%s %04o %s", kind, e.Mode&0o7777, e.Path)
	if len(e.Content) > 0 {
		line += " = " + string(e.Content)
	}
	return line
}

func mountLine(m oci.Mount) string {
	words := []string{m.Tag + ":", m.Type}
	if m.Source != "" {
		words = append(words, m.Source, "→")
	}
	words = append(words, m.Target)
	for _, f := range []struct {
		flag uint64
		name string
	}{{unix.MS_RDONLY, "ro"}, {unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"}} {
		if m.Flags&f.flag != 0 {
			words = append(words, f.name)
		}
	}
	if m.Data != "" {
		words = append(words, "data="+m.Data)
	}
	if m.Symlink != "" {
		words = append(words, "link="+m.Symlink)
	}
	if m.MakeDir != 0 {
		words = append(words, fmt.Sprintf("makedir=%04o", m.MakeDir))
	}
	if m.Mkdir {
		words = append(words, "mkdir")
	}
	if m.Optional {
		words = append(words, "optional")
	}
	if m.Warn != "" {
		words = append(words, fmt.Sprintf("warn=%q", m.Warn))
	}
	if m.Else != nil {
		words = append(words, "else", mountLine(*m.Else))
	}
	return strings.Join(words, " ")
}

func TestPlanErrors(t *testing.T) {
	for _, c := range []struct {
		planCase
		want string
	}{
		{planCase{o: Options{Writable: true}}, "/images/debian.sif is a sif image and cannot be written to"},
		{planCase{o: Options{Compat: true, NoCompat: true}}, "cannot use --no-compat with --compat: incompatible options"},
		{planCase{o: Options{Bind: []string{"/gone:/x"}}}, "mount source /gone doesn't exist"},
		{planCase{o: Options{Bind: []string{"/data:/etc/passwd"}}}, "mount /data to /etc/passwd: /etc/passwd is a file in the container, but the source is a directory"},
		{planCase{o: Options{Bind: []string{"/data/set.csv:/opt"}}}, "mount /data/set.csv to /opt: /opt is a directory in the container, but the source is a file"},
		{planCase{o: Options{Bind: []string{"/data:/tmp/d"}}}, "mount /data to /tmp/d: destination /tmp/d doesn't exist in container: it would be /tmp/d on the host"},
		{planCase{o: Options{Bind: []string{"/data:rel"}}}, `bind "/data:rel": the destination is not an absolute path`},
		{planCase{o: Options{Bind: []string{"/data:/"}}}, `bind "/data:/": the destination is the root of the container`},
		{planCase{source: debianSandbox, o: Options{Writable: true, Bind: []string{"/data"}}}, "mount /data to /data: /data doesn't exist in container"},
		{planCase{o: Options{Net: true}}, "network bridge is not permitted for unprivileged users"},
		{planCase{o: Options{Hostname: "-x"}}, "-x is not a valid hostname"},
		{planCase{o: Options{DNS: "1.2.3"}}, "dns ip 1.2.3 is not a valid IP address"},
		{planCase{o: Options{Home: "a:b:c"}}, "home argument has incorrect number of elements: [a b c]"},
		{planCase{o: Options{Home: "/gone"}}, "mount source /gone doesn't exist"},
		{planCase{o: Options{Contain: true, Workdir: "/gone"}}, "workdir /gone: file does not exist"},
		{planCase{o: Options{AddCaps: "fly"}}, "unknown capability: CAP_FLY"},
		{planCase{o: Options{Env: []string{"X"}}}, `--env "X": X must be formatted as key=value`},
		{planCase{o: Options{EnvFiles: []EnvFile{{"f.env", []byte("A=$(date)")}}}}, `while processing f.env: could not execute "date": execution is disabled`},
		{planCase{o: Options{EnvFiles: []EnvFile{{"f.env", []byte("A=1 > /tmp/x")}}}}, `while processing f.env: could not open/create/modify "/tmp/x": file feature is disabled`},
	} {
		_, _, err := c.plan()
		if err == nil || err.Error() != c.want {
			t.Errorf("%+v:\n got %v\nwant %v", c.o, err, c.want)
		}
	}
}

func TestScriptsUnderABindAreReadInside(t *testing.T) {
	for spec, travel := range map[string]bool{
		"/data":                                     true,
		"/data:/opt":                                true,
		"/data/set.csv:/.singularity.d/env/x.sh":    false,
		"/data:/.singularity.d":                     false,
		"/data:/.singularity.d/env":                 false,
		"/data/set.csv:/.singularity.d/labels.json": false,
	} {
		p, _, err := planCase{o: Options{Bind: []string{spec}}}.plan()
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(p.Process.Action, []byte(`"scripts"`)); got != travel {
			t.Errorf("%s: scripts travel in the plan: %v", spec, got)
		}
	}
}

func TestWritableErrorSaysWhatToDo(t *testing.T) {
	_, _, err := planCase{o: Options{Writable: true}}.plan()
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "coracle build --sandbox debian/ /images/debian.sif") {
		t.Errorf("no way out in %v", err)
	}
}

// TestPlanTargetsHavePlaces holds for every golden plan: what a mount needs is
// there or made, and nothing honours set-user-ID files.
func TestPlanTargetsHavePlaces(t *testing.T) {
	for _, c := range planCases() {
		p, _, err := c.plan()
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range p.Mounts {
			if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target {
				t.Errorf("%s: target %q is not clean", c.name, m.Target)
			}
			covered := slices.ContainsFunc(p.Mounts[:i], func(o oci.Mount) bool { return o.Type == "tmpfs" && within(m.Target, o.Target) && o.Target != m.Target })
			if m.Mkdir && !covered {
				t.Errorf("%s: %s is to be made, but lies on no tmpfs of the plan", c.name, m.Target)
			}
			if m.Flags&unix.MS_NOSUID == 0 && m.Type != "symlink" {
				t.Errorf("%s: %s honours set-user-ID files", c.name, m.Target)
			}
		}
		if p.Root.Write == oci.WriteDirect {
			for _, e := range p.Root.Entries {
				if len(e.Content) == 0 {
					t.Errorf("%s: %s cannot be presented on a directory that is written to", c.name, e.Path)
				}
			}
		}
	}
}
