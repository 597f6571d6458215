package conformance

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// behaviour is one thing that a user can see a container do.
type behaviour struct {
	name   string
	config config
	exec   bool // a given program, the image's entrypoint put aside
	args   []string
	stdin  string

	// deviation is why coracle's outcome is not the peers'. The test fails when
	// it no longer differs.
	deviation string
}

var (
	entry = config{Entrypoint: []string{"/bin/echo", "entry"}}
	cmd   = config{Cmd: []string{"/bin/echo", "cmd"}}
	both  = config{Entrypoint: []string{"/bin/echo", "entry"}, Cmd: []string{"cmd", "two words"}}
	odd   = config{Entrypoint: []string{"/bin/printf", "[%s]", `$HOME`, "a\"b", `c'd`, `e\f`, "`id`", "new\nline", ""}, Cmd: []string{"*"}}
	vars  = config{Entrypoint: []string{"/bin/sh", "-c"}, Env: []string{"PLAIN=x", "SPACED=two words", `DOLLAR=$HOME`, `QUOTE=a"b`, `BACK=a\b`, "EMPTY=", "TICK=`id`", "EQ=a=b"}}
	work  = config{Entrypoint: []string{"/bin/sh", "-c"}, WorkingDir: "/srv/data"}
	shell = config{Entrypoint: []string{"/bin/sh", "-c"}}
)

func behaviours() []behaviour {
	all := []behaviour{
		{name: "entrypoint alone", config: entry},
		{name: "entrypoint with arguments", config: entry, args: []string{"a", "b c"}},
		{name: "cmd alone", config: cmd},
		{name: "cmd replaced", config: cmd, args: []string{"/bin/echo", "other"}},
		{name: "entrypoint and cmd", config: both},
		{name: "entrypoint, cmd replaced", config: both, args: []string{"mine"}},
		{name: "odd characters in the image", config: odd},
		{name: "odd characters in arguments", config: entry, args: []string{`$HOME`, "`id`", `a"b`, `c'd`, `e\f`, "*", "", "new\nline", "ünï"}},
		{name: "escaped dollar", config: entry, args: []string{`\$HOSTNAME`}},
		{name: "non-UTF-8 argument", config: entry, args: []string{"\xff\xfe"}},
		{name: "an argument that looks like a flag", config: entry, args: []string{"--version", "-h"}},
		{name: "search in PATH", config: config{Cmd: []string{"echo", "found"}}},
		{name: "exec with arguments", config: entry, exec: true, args: []string{"/bin/echo", `$HOME`, "a b"}},
		{name: "exec of a script", config: entry, exec: true, args: []string{"/bin/script", "x", "y z"}},
		{name: "working directory", config: work, args: []string{"pwd"}, deviation: "native mode starts in the caller's or the home directory, as SingularityCE does"},
		{name: "stdin is passed", config: shell, args: []string{"cat"}, stdin: "hello\nworld\n"},
		{name: "large stdin", config: shell, args: []string{"wc -c"}, stdin: strings.Repeat("0123456789abcdef", 1<<16)},
		{name: "many output lines", config: shell, args: []string{"seq 1 20000 | head -n 15000"}},
		{name: "file content", config: shell, args: []string{"cat /srv/data/file /srv/soft /srv/hard"}},
		{name: "file modes", config: shell, args: []string{"stat -c '%A %u %g %s %h' /srv/data/file /srv/hard /bin/script; stat -c '%A %u %g' /srv/data"}},
		{name: "symbolic link", config: shell, args: []string{"readlink /srv/soft; readlink /bin/sh"}},
		{name: "uid and gid", config: shell, args: []string{"id -u; id -g"}},
		{name: "writable root", config: shell, args: []string{"echo x > /new && cat /new; rm /srv/data/file; ls /srv/data | wc -l"}},
		{name: "writable /tmp", config: shell, args: []string{"echo x > /tmp/new && cat /tmp/new"}},
		{name: "process id one", config: shell, args: []string{"echo $$"}},
		{name: "umask", config: shell, args: []string{"umask"}},
		{name: "devices", config: shell, args: []string{"for d in null zero random urandom tty; do test -c /dev/$d && echo $d; done"}},
		{name: "device links", config: shell, args: []string{"readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx"}},
		{name: "null swallows", config: shell, args: []string{"echo x > /dev/null; echo $?"}},
		{name: "/dev/shm is writable", config: shell, args: []string{"echo x > /dev/shm/f && cat /dev/shm/f"}},
		{name: "/proc is of the PID namespace", config: shell, args: []string{"readlink /proc/self/exe; ls -d /proc/1"}},
		{name: "setuid root is possible to keep", config: shell, args: []string{"stat -c %a /tmp"}},
		{name: "background child is reaped", config: shell, args: []string{"sleep 0 & wait; echo done"}},
		{name: "clean environment", config: shell, args: []string{"test -z \"$CORACLE_CONFORMANCE\" && echo clean"}},
		{name: "variable PATH from nowhere", config: shell, args: []string{"echo $PATH"}},
	}
	for _, name := range []string{"PLAIN", "SPACED", "DOLLAR", "QUOTE", "BACK", "TICK", "EQ"} {
		all = append(all, behaviour{name: "image variable " + name, config: vars, args: []string{`printf '%s' "$` + name + `"`}})
	}
	for _, status := range []int{0, 1, 2, 42, 126, 127, 128, 200, 255} {
		all = append(all, behaviour{name: fmt.Sprintf("exit status %d", status), config: shell, args: []string{fmt.Sprintf("exit %d", status)}})
	}
	for _, signal := range []string{"TERM", "KILL", "INT", "HUP", "SEGV", "USR1"} {
		all = append(all, behaviour{name: "a child ended by " + signal, config: shell, args: []string{"sh -c 'kill -" + signal + " $$'; echo $?"}})
	}
	notFound := "SingularityCE ends with 255 for all its own errors; Docker's 127 and 126 belong to OCI mode"
	return append(all,
		behaviour{name: "program not found", config: entry, exec: true, args: []string{"/nonexistent"}, deviation: notFound},
		behaviour{name: "program not in PATH", config: entry, exec: true, args: []string{"nonexistent"}, deviation: notFound},
		behaviour{name: "not executable", config: entry, exec: true, args: []string{"/bin/plain"}, deviation: notFound},
		behaviour{name: "a directory as program", config: entry, exec: true, args: []string{"/srv"}, deviation: notFound},
	)
}

func TestBehavesAsPeers(t *testing.T) {
	_, err := os.Stat(busybox)
	needs(t, "busybox-static", err == nil)
	_, err = os.Stat("/dev/fuse")
	needs(t, "/dev/fuse", err == nil)
	ours, others := coracle(t), peers(t)
	t.Setenv("CORACLE_CONFORMANCE", "leaks")
	images := map[string]map[string]string{} // by configuration, then engine
	for _, b := range behaviours() {
		key := string(mustJSON(t, b.config))
		if images[key] == nil {
			tag := fmt.Sprintf("localhost/coracle-conformance:%d", len(images))
			archive := writeArchive(t, t.TempDir(), tag, b.config)
			images[key] = map[string]string{}
			for _, e := range append([]engine{ours}, others...) {
				images[key][e.name] = e.load(t, archive, tag)
			}
		}
		t.Run(b.name, func(t *testing.T) {
			got := do(t, ours, images[key]["coracle"], b)
			for _, e := range others {
				want := do(t, e, images[key][e.name], b)
				for tries := 0; tries < 2 && got != want && b.deviation == ""; tries++ {
					// podman 4.3 loses the output of a short program now and then.
					want = do(t, e, images[key][e.name], b)
				}
				switch {
				case got == want && b.deviation != "":
					t.Errorf("behaves as %s now (%v), but is listed as a deviation: %s", e.name, got, b.deviation)
				case got != want && b.deviation == "":
					t.Errorf("coracle: %v\n%s: %v", got, e.name, want)
				}
			}
		})
	}
}
