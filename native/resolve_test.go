package native

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image"
	"github.com/coracle-runtime/coracle/oci"
)

// container makes a directory that stands for a container's root.
func container(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		mode := os.FileMode(0o644)
		if rest, ok := strings.CutPrefix(name, "+"); ok {
			name, mode = rest, 0o755
		}
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func marshal(t testing.TB, a action) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// The scripts of SingularityCE in their shape, not their words.
var standardScripts = map[string]string{
	"/.singularity.d/env/01-base.sh":               "#!/bin/sh\n# licence\n\n",
	"/.singularity.d/env/10-docker2singularity.sh": "#!/bin/sh\nexport PATH=\"/usr/local/bin:/bin\"\nexport JAVA_HOME=\"${JAVA_HOME:-\"/usr/java/openjdk-17\"}\"\nexport LANG=\"${LANG:-\"C.UTF-8\"}\"\n",
	"/.singularity.d/env/90-environment.sh":        "#!/bin/sh\n# Custom environment shell code should follow\n\n",
	"/.singularity.d/env/91-environment.sh":        "#!/bin/sh\n# Custom environment shell code should follow\n\n",
	"/.singularity.d/env/94-appsbase.sh":           "",
	"/.singularity.d/env/95-apps.sh": `#!/bin/sh
if test -n "${SINGULARITY_APPNAME:-}"; then
    # The active app should be exported
    export SINGULARITY_APPNAME

    if test -d "/scif/apps/${SINGULARITY_APPNAME:-}/"; then
        SCIF_APPS="/scif/apps"
        SCIF_APPROOT="/scif/apps/${SINGULARITY_APPNAME:-}"
        export SCIF_APPROOT SCIF_APPS
        PATH="/scif/apps/${SINGULARITY_APPNAME:-}:$PATH"

        # Automatically add application bin to path
        if test -d "/scif/apps/${SINGULARITY_APPNAME:-}/bin"; then
            PATH="/scif/apps/${SINGULARITY_APPNAME:-}/bin:$PATH"
        fi
        export PATH
    else
        echo "Could not locate the container application: ${SINGULARITY_APPNAME}"
        exit 1
    fi
fi
`,
	"/.singularity.d/env/99-base.sh": `#!/bin/sh
if [ -z "$LD_LIBRARY_PATH" ]; then
    LD_LIBRARY_PATH="/.singularity.d/libs"
else
    LD_LIBRARY_PATH="$LD_LIBRARY_PATH:/.singularity.d/libs"
fi

PS1="Singularity> "
export LD_LIBRARY_PATH PS1
`,
	"/.singularity.d/env/99-runtimevars.sh": "#!/bin/sh\nexit 77 # never sourced: ours takes its place\n",
	"+/bin/sh":                              "",
	"+/bin/true":                            "",
}

// result is what a Resolve came to.
type result struct {
	args     []string
	env      map[string]string
	environ  []string
	warnings []string
	stdout   string
	stderr   string
	err      error
}

// at resolves an action in root, in an environment like that of a plan.
func at(t testing.TB, root string, a action, env ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	var r result
	p := &oci.Process{Env: append([]string{
		"SINGULARITY_CONTAINER=/x.sif", "SINGULARITY_NAME=x.sif", "SINGULARITY_COMMAND=" + string(a.Kind), "HOME=/home/me", "PATH=" + defaultPath,
	}, env...)}
	in := inside{root: root, stdout: &out, stderr: &errs, limit: 20 * time.Second}
	r.err = in.resolve(marshal(t, a), p, func(s string) { r.warnings = append(r.warnings, s) })
	r.args, r.environ, r.env, r.stdout, r.stderr = p.Args, p.Env, map[string]string{}, out.String(), errs.String()
	for _, e := range p.Env {
		name, value, _ := strings.Cut(e, "=")
		r.env[name] = value
	}
	return r
}

// below is the directory as the root of an image.
type below string

func (b below) Lstat(name string) (image.Stat, error) { return HostFiles{}.Lstat(string(b) + name) }
func (b below) Readlink(name string) (string, error)  { return HostFiles{}.Readlink(string(b) + name) }
func (b below) ReadDir(name string) ([]string, error) { return HostFiles{}.ReadDir(string(b) + name) }
func (b below) ReadFile(name string, limit int64) ([]byte, error) {
	return HostFiles{}.ReadFile(string(b)+name, limit)
}

// TestScriptsThatDoNotTravel lists those that only the container can read right.
func TestScriptsThatDoNotTravel(t *testing.T) {
	const name = "/.singularity.d/env/20-a.sh"
	travel := func(root string) bool { return len(readScripts(below(root))) > 0 }
	if root := container(t, scripts(nil)); !travel(root) {
		t.Error("usual scripts are read inside")
	}
	if root := container(t, map[string]string{"/bin/app": ""}); travel(root) {
		t.Error("scripts from nowhere")
	}
	private := container(t, scripts(map[string]string{"20-a.sh": "export A=1\n"}))
	if err := os.Chmod(private+name, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, root := range map[string]string{
		"a private one": private,
		"binary":        container(t, scripts(map[string]string{"20-a.sh": "\xff\xfe"})),
		"huge":          container(t, scripts(map[string]string{"20-a.sh": strings.Repeat("#", maxScripts+1)})),
		"a directory":   container(t, map[string]string{name + "/x": ""}),
	} {
		if travel(root) {
			t.Errorf("%s travels in the plan", what)
		}
	}
}

// scripts are standardScripts with more, or others, below /.singularity.d/env.
func scripts(more map[string]string) map[string]string {
	all := maps.Clone(standardScripts)
	for name, content := range more {
		all["/.singularity.d/env/"+name] = content
	}
	return all
}

var execTrue = action{Kind: Exec, Args: []string{"true"}}

func TestResolveInjectsAfterTheImagesVariables(t *testing.T) {
	root := container(t, standardScripts)
	a := execTrue
	a.Inject = variables{{"MYVAR", "$(echo hi)"}, {"JAVA_HOME", "/test"}}
	r := at(t, root, a, "HOST_VAR=1", "JAVA_HOME=/host")
	if r.err != nil || len(r.warnings) > 0 || r.stderr != "" {
		t.Fatal(r)
	}
	want := []string{
		"HOME=/home/me", "HOST_VAR=1", "JAVA_HOME=/test", "LANG=C.UTF-8", "LD_LIBRARY_PATH=/.singularity.d/libs", "MYVAR=hi",
		"PATH=/usr/local/bin:/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin",
		`PROMPT_COMMAND=PS1="Singularity> "; unset PROMPT_COMMAND`, "PS1=Singularity> ", "PWD=/",
		"SINGULARITY_COMMAND=exec", "SINGULARITY_CONTAINER=/x.sif", "SINGULARITY_ENVIRONMENT=/.singularity.d/env/91-environment.sh", "SINGULARITY_NAME=x.sif",
	}
	if diff := cmp.Diff(want, r.environ); diff != "" {
		t.Error(diff)
	}
}

// The cases are those of SingularityCE's user documentation and of its
// action_scripts.go, as observed with 4.5.1.
func TestResolveEnvironment(t *testing.T) {
	const full = "/usr/local/bin:/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin"
	const unset = "\x00unset"
	for _, c := range []struct {
		name    string
		scripts map[string]string
		inject  variables
		noEval  bool
		host    []string
		want    map[string]string
	}{
		{name: "image beats host", host: []string{"JAVA_HOME=/test"}, want: map[string]string{"JAVA_HOME": "/usr/java/openjdk-17"}},
		{name: "user beats image", inject: variables{{"JAVA_HOME", "/test"}}, want: map[string]string{"JAVA_HOME": "/test"}},
		{name: "evaluation", inject: variables{{"MYVAR", "$(echo a; echo b)"}, {"N", "$MYVAR:$((1+2)):`echo c`"}},
			want: map[string]string{"MYVAR": "a\nb", "N": "a\nb:3:c"}},
		{name: "no evaluation", noEval: true, inject: variables{{"MYVAR", "$(date) 'x' \"y\" \\z `w`"}},
			want: map[string]string{"MYVAR": "$(date) 'x' \"y\" \\z `w`"}},
		{name: "escapes", inject: variables{{"A", `\$HOME`}, {"B", `\\$HOME`}, {"C", "say \"hi\" it's"}, {"D", `a\nb`}},
			want: map[string]string{"A": "$HOME", "B": `\/home/me`, "C": "say \"hi\" it's", "D": `a\nb`}},
		{name: "value no shell can read", inject: variables{{"A", "open $("}, {"B", "1"}}, want: map[string]string{"A": "open $(", "B": "1"}},
		{name: "a host variable is not seen by a script", scripts: map[string]string{"90-environment.sh": "export FOO=${FOO:-default}\n"},
			host: []string{"FOO=host"}, want: map[string]string{"FOO": "default"}},
		{name: "a variable set without export is lost", scripts: map[string]string{"90-environment.sh": "FOO=image\n"},
			host: []string{"FOO=host"}, want: map[string]string{"FOO": unset}},
		{name: "an unset variable comes back", scripts: map[string]string{"90-environment.sh": "unset FOO HOME\n"},
			host: []string{"FOO=host"}, want: map[string]string{"FOO": "host", "HOME": "/home/me"}},
		{name: "set to nothing by a script is unset", scripts: map[string]string{"90-environment.sh": "export FOO= BAR=\n"},
			host: []string{"FOO=host"}, want: map[string]string{"FOO": unset, "BAR": ""}},
		{name: "an empty host variable stays", host: []string{"FOO="}, want: map[string]string{"FOO": ""}},
		{name: "host values cross unchanged", host: []string{"FOO=a\nb * $(x) 'y' \\u000A =", "GLOB=*"},
			want: map[string]string{"FOO": "a\nb * $(x) 'y' \\u000A =", "GLOB": "*"}},
		{name: "the container's name is fixed", scripts: map[string]string{"90-environment.sh": "SINGULARITY_NAME=evil\nexport AFTER=1\n"},
			want: map[string]string{"SINGULARITY_NAME": "x.sif", "AFTER": "1"}},
		{name: "default path is appended", want: map[string]string{"PATH": full}},
		{name: "path of a definition file", scripts: map[string]string{"10-docker2singularity.sh": "", "90-environment.sh": "export PATH=/opt/bin:$PATH\n"},
			want: map[string]string{"PATH": "/opt/bin:" + defaultPath}},
		{name: "prepend and append", inject: variables{{"SING_USER_DEFINED_PREPEND_PATH", "/pre"}, {"SING_USER_DEFINED_APPEND_PATH", "/post"}},
			want: map[string]string{"PATH": "/pre:" + full + ":/post", "SING_USER_DEFINED_PREPEND_PATH": unset, "SING_USER_DEFINED_APPEND_PATH": unset}},
		{name: "path replaced", inject: variables{{"SING_USER_DEFINED_PREPEND_PATH", "/pre"}, {"SING_USER_DEFINED_PATH", "$PATH:/mine"}},
			want: map[string]string{"PATH": full + ":/mine", "SING_USER_DEFINED_PATH": unset}},
		{name: "libraries", inject: variables{{"LD_LIBRARY_PATH", "/mine"}}, want: map[string]string{"LD_LIBRARY_PATH": "/mine:/.singularity.d/libs"}},
		{name: "no libraries", inject: variables{{"LD_LIBRARY_PATH", ""}}, want: map[string]string{"LD_LIBRARY_PATH": ""}},
		{name: "libraries of the image", scripts: map[string]string{"90-environment.sh": "export LD_LIBRARY_PATH=/opt/lib\n"},
			want: map[string]string{"LD_LIBRARY_PATH": "/opt/lib:/.singularity.d/libs"}},
		{name: "functions and aliases live on", scripts: map[string]string{
			"20-a.sh": "say() { echo said $1; }\nalias seven='echo 7'\n", "91-environment.sh": "export SAID=$(say x)\nexport SEVEN=$(seven)\n"},
			want: map[string]string{"SAID": "said x", "SEVEN": "7"}},
		{name: "return ends one script", scripts: map[string]string{"20-a.sh": "export A=1\nreturn 3\nexport A=2\n", "91-environment.sh": "export B=1\n"},
			want: map[string]string{"A": "1", "B": "1"}},
		{name: "a script that cannot be parsed is left out", scripts: map[string]string{"20-a.sh": "export A=1\nif then\n", "91-environment.sh": "export B=1\n"},
			want: map[string]string{"A": unset, "B": "1"}},
		{name: "a failing command is no end", scripts: map[string]string{"20-a.sh": "false\nexport A=1\nnosuchprogram\n", "91-environment.sh": "export B=$?\n"},
			want: map[string]string{"A": "1", "B": "127"}},
		{name: "hidden files and others are no scripts", scripts: map[string]string{".x.sh": "exit 9\n", "x.txt": "exit 9\n", "x.sh~": "exit 9\n"},
			want: map[string]string{"PATH": full}},
		{name: "conda's backslash", scripts: map[string]string{"20-a.sh": `\export A='a  b "c"'"'s" B` + "\n" + `f() { \local x=1; x=2; }; f; export X=${x:-none}` + "\n"},
			want: map[string]string{"A": `a  b "c"'s`, "X": "none"}},
		{name: "bash prompt", scripts: map[string]string{"91-environment.sh": "export PS1='[me]$ '\n"}, host: []string{"PROMPT_COMMAND=date"},
			want: map[string]string{"PS1": "Singularity> ", "PROMPT_COMMAND": `date; PROMPT_COMMAND="${PROMPT_COMMAND%%; PROMPT_COMMAND=*}"; PS1="Singularity> "`}},
		{name: "scripts after 99-runtimevars.sh", scripts: map[string]string{"99-zz.sh": "export SEEN=$A PATH=$PATH:/zz\n"}, inject: variables{{"A", "1"}, {"SING_USER_DEFINED_APPEND_PATH", "/post"}},
			want: map[string]string{"SEEN": "1", "PATH": full + ":/post:/zz"}},
		{name: "arguments are seen", scripts: map[string]string{"91-environment.sh": `export ARGS="$#:$1:$0"` + "\n"},
			want: map[string]string{"ARGS": "1:true:/.singularity.d/actions/exec"}},
		{name: "arrays are not exported", scripts: map[string]string{"91-environment.sh": "export A=(1 2)\nB=(x y); export C=${B[1]}\n"},
			want: map[string]string{"A": unset, "C": "y"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := action{Kind: Exec, Args: []string{"true"}, Inject: c.inject, NoEval: c.noEval}
			root := container(t, scripts(c.scripts))
			r := at(t, root, a, c.host...)
			if r.err != nil {
				t.Fatal(r.err)
			}
			a.Scripts = readScripts(below(root))
			if early := at(t, t.TempDir(), a, c.host...); len(a.Scripts) == 0 || early.err != nil || !slices.Equal(early.environ, r.environ) {
				t.Errorf("with scripts that travel in the plan: %v %s", early.err, cmp.Diff(r.environ, early.environ))
			}
			for name, want := range c.want {
				got, ok := r.env[name]
				if !ok {
					got = unset
				}
				if got != want {
					t.Errorf("%s is %q, want %q (stderr: %s)", name, got, want, r.stderr)
				}
			}
		})
	}
}

func TestResolveImagesWithoutScripts(t *testing.T) {
	inject := variables{{"A", "$(echo 1)"}, {"SING_USER_DEFINED_APPEND_PATH", "/post"}}
	for name, files := range map[string]map[string]string{
		"bare":                                 {"+/bin/app": ""},
		"old":                                  {"/environment": "export OLD=1\nexport PATH=/bin:" + defaultPath + "\n"},
		"no 99-base.sh":                        {"/.singularity.d/env/10-docker2singularity.sh": "export OLD=1\n"},
		"no 99-base.sh, but 99-runtimevars.sh": {"/.singularity.d/env/99-runtimevars.sh": "exit 1\n"},
		"only comments":                        {"/.singularity.d/env/90-environment.sh": "# nothing\n"},
	} {
		r := at(t, container(t, files), action{Kind: Exec, Args: []string{"app"}, Inject: inject}, "HOST=1")
		if r.err != nil || r.env["A"] != "1" || r.env["HOST"] != "1" || !strings.HasSuffix(r.env["PATH"], defaultPath+":/post") {
			t.Errorf("%s: %v %q", name, r.err, r.environ)
		}
		if _, ok := files["/environment"]; ok && r.env["OLD"] != "1" {
			t.Errorf("%s: /environment was not sourced", name)
		}
	}
}

func TestResolveScriptsThatEndEverything(t *testing.T) {
	for _, c := range []struct {
		script string
		code   int
	}{{"exit 7\n", 7}, {"exit 0\n", 0}, {"set -e\nfalse\n", 1}, {"exit\n", 0}} {
		r := at(t, container(t, scripts(map[string]string{"20-a.sh": c.script})), execTrue)
		var exit *ExitError
		if !errors.As(r.err, &exit) || exit.ExitCode() != c.code {
			t.Errorf("%q: %v, want an exit with %d", c.script, r.err, c.code)
		}
	}
	r := at(t, container(t, scripts(map[string]string{"20-a.sh": "A=1 exec /bin/other x 'y z'\n"})), execTrue, "HOST=1")
	if r.err != nil || !slices.Equal(r.args, []string{"/bin/other", "x", "y z"}) || r.env["HOST"] != "" {
		t.Errorf("exec in a script: %v %q %q", r.err, r.args, r.environ)
	}
	app := at(t, container(t, standardScripts), execTrue, "SINGULARITY_APPNAME=foo")
	if want := (&ExitError{Code: 1}); !errors.As(app.err, &want) || app.stdout != "Could not locate the container application: foo\n" {
		t.Errorf("missing app: %v %q", app.err, app.stdout)
	}
}

func TestResolveGivesUpOnEndlessScripts(t *testing.T) {
	root := container(t, scripts(map[string]string{"20-a.sh": "while :; do :; done\n"}))
	in := inside{root: root, stdout: io.Discard, stderr: io.Discard, limit: 50 * time.Millisecond}
	err := in.resolve(marshal(t, execTrue), &oci.Process{}, func(string) {})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestResolveSurvivesAPanicOfTheInterpreter(t *testing.T) {
	err := guarded(func() error { panic("variable name must not be empty") })
	if err == nil || !strings.Contains(err.Error(), "stumbled") {
		t.Error(err)
	}
}

func TestResolveWarnsOfUnsupportedBuiltins(t *testing.T) {
	r := at(t, container(t, scripts(map[string]string{"20-a.sh": "trap 'echo bye' EXIT\nexport A=$?\n"})), execTrue)
	if r.err != nil || !slices.Equal(r.warnings, []string{"trap is not supported by this shell interpreter"}) || r.env["A"] != "0" || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}

func TestResolveUmask(t *testing.T) {
	old := unix.Umask(0o022)
	defer unix.Umask(old)
	r := at(t, container(t, scripts(map[string]string{"20-a.sh": "export OLD=$(umask)\numask 0077\nexport NEW=$(umask)\numask nonsense || export BAD=$?\n"})), execTrue)
	if r.env["OLD"] != "0022" || r.env["NEW"] != "0077" || r.env["BAD"] != "1" {
		t.Errorf("%q", r.environ)
	}
	if got := unix.Umask(0o022); got != 0o077 {
		t.Errorf("the process has umask %04o, want what the script set", got)
	}
}

// TestResolveRunsPrograms re-executes this test as the programs that scripts run.
func TestResolveRunsPrograms(t *testing.T) {
	if os.Getenv("NATIVE_TEST_PROGRAM") != "" {
		return // TestMain has done it
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := container(t, scripts(map[string]string{
		"20-a.sh": "export PATH=/opt NATIVE_TEST_PROGRAM=env\nUNEXPORTED=1\nexport SEEN=$(program x)\nprogram fail; export STATUS=$?\nplain; export PLAIN=$?\n",
	}))
	if err := os.MkdirAll(root+"/opt", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, root+"/opt/program"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/opt/plain", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := at(t, root, execTrue, "HOST=1")
	if r.err != nil {
		t.Fatal(r.err)
	}
	want := "HOME=/home/me JAVA_HOME=/usr/java/openjdk-17 LANG=C.UTF-8 NATIVE_TEST_PROGRAM=env PATH=/opt PWD=/ SINGULARITY_CONTAINER=/x.sif SINGULARITY_NAME=x.sif"
	if r.env["SEEN"] != want || r.env["STATUS"] != "42" || r.env["PLAIN"] != "127" {
		t.Errorf("programs saw %q, status %s, %s", r.env["SEEN"], r.env["STATUS"], r.env["PLAIN"])
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("NATIVE_TEST_PROGRAM") == "env" {
		if len(os.Args) > 1 && os.Args[1] == "fail" {
			os.Exit(42)
		}
		env := os.Environ()
		slices.Sort(env)
		os.Stdout.WriteString(strings.Join(env, " ") + "\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func BenchmarkResolve(b *testing.B) {
	root := container(b, standardScripts)
	raw := marshal(b, action{Kind: Exec, Args: []string{"true"}})
	env := []string{"HOME=/home/me", "PATH=" + defaultPath, "SINGULARITY_NAME=x.sif", "SINGULARITY_CONTAINER=/x.sif"}
	for range 40 {
		env = append(env, "VAR"+strings.Repeat("x", len(env))+"=some value")
	}
	in := inside{root: root, stdout: io.Discard, stderr: io.Discard, limit: time.Minute}
	b.ReportAllocs()
	for b.Loop() {
		if err := in.resolve(raw, &oci.Process{Env: env}, func(string) {}); err != nil {
			b.Fatal(err)
		}
	}
}
