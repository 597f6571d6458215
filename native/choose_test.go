package native

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coracle-runtime/coracle/oci"
)

// ociRunscript is what SingularityCE 4 and we make of ENTRYPOINT and CMD,
// without what differs between both.
func ociRunscript(entrypoint, cmd []string) string {
	double := func(words []string) string {
		for i, w := range words {
			words[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`).Replace(w) + `"`
		}
		return "'" + strings.ReplaceAll(strings.Join(words, " "), "'", `'"'"'`) + "'"
	}
	prepend := func(words []string) string {
		if len(words) == 0 {
			return ":"
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'"'"'`)+"'")
		}
		return "set -- " + strings.Join(quoted, " ") + ` "$@"`
	}
	return `#!/bin/sh
OCI_ENTRYPOINT=` + double(slices.Clone(entrypoint)) + `
OCI_CMD=` + double(slices.Clone(cmd)) + `

if [ -n "$SINGULARITY_NO_EVAL" ]; then
	if [ $# -eq 0 ]; then
		` + prepend(cmd) + `
		:
	fi
	` + prepend(entrypoint) + `
	exec "$@"
fi

CMDLINE_ARGS=""
for arg in "$@"; do
		CMDLINE_ARGS="${CMDLINE_ARGS} \"$arg\""
done
if [ $# -gt 0 ]; then
	SINGULARITY_OCI_RUN="${OCI_ENTRYPOINT} ${CMDLINE_ARGS}"
else
	SINGULARITY_OCI_RUN="${OCI_ENTRYPOINT} ${OCI_CMD}"
fi
eval "set ${SINGULARITY_OCI_RUN}"
exec "$@"
`
}

// TestRunscriptOfOCIImages has the examples of SingularityCE's documentation
// (Singularity and Docker, CMD / ENTRYPOINT and argument handling), and holds
// each against dash.
func TestRunscriptOfOCIImages(t *testing.T) {
	p := func(words ...string) []string { return append([]string{"printf", "<%s>\n"}, words...) }
	for _, c := range []struct {
		name            string
		entrypoint, cmd []string
		args            []string
		inject          variables
		noEval          bool
		want            []string
	}{
		{name: "entrypoint", entrypoint: p("date"), want: p("date")},
		{name: "entrypoint and arguments", entrypoint: p("date"), args: []string{"--utc"}, want: p("date", "--utc")},
		{name: "cmd", cmd: p("date"), want: p("date")},
		{name: "arguments replace cmd", cmd: p("date"), args: p("hello"), want: p("hello")},
		{name: "entrypoint and cmd", entrypoint: p("date"), cmd: []string{"--utc"}, want: p("date", "--utc")},
		{name: "arguments replace cmd alone", entrypoint: p("date"), cmd: []string{"--utc"}, args: []string{"-R"}, want: p("date", "-R")},
		{name: "image variable", cmd: p("x"), args: p("$JAVA_HOME"), want: p("/usr/java/openjdk-17")},
		{name: "forced variable", cmd: p("x"), args: p("$JAVA_HOME"), inject: variables{{"JAVA_HOME", "/test"}}, want: p("/test")},
		{name: "host variable", cmd: p("x"), args: p("$HOSTNAME"), want: p("p700")},
		{name: "no evaluation", cmd: p("x"), args: p("$HOSTNAME", "a b", `"q"`, ""), noEval: true, want: p("$HOSTNAME", "a b", `"q"`, "")},
		{name: "escaped", cmd: p("x"), args: p(`\$HOSTNAME`), want: p("$HOSTNAME")},
		{name: "spaces stay", cmd: p("x"), args: p("a  b", "", "c'd"), want: p("a  b", "", "c'd")},
		{name: "image words are literal", cmd: p("$HOME", `a"b`, "c'd", "`e`", `f\g`, "*"), want: p("$HOME", `a"b`, "c'd", "`e`", `f\g`, "*")},
		{name: "substitution", cmd: p("x"), args: p("$(echo in; echo side)"), want: p("in\nside")},
		{name: "no evaluation of entrypoint", entrypoint: p("$HOME"), cmd: []string{"c'd"}, noEval: true, want: p("$HOME", "c'd")},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := maps.Clone(standardScripts)
			files["+/.singularity.d/runscript"] = ociRunscript(c.entrypoint, c.cmd)
			env := []string{"HOSTNAME=p700"}
			if c.noEval {
				env = append(env, "SINGULARITY_NO_EVAL=1")
			}
			r := at(t, container(t, files), action{Kind: Run, Args: c.args, Inject: c.inject, NoEval: c.noEval}, env...)
			if r.err != nil || !slices.Equal(r.args, c.want) {
				t.Fatalf("%v: %q, want %q (stderr: %s)", r.err, r.args, c.want, r.stderr)
			}
			for _, leak := range []string{"OCI_CMD", "OCI_ENTRYPOINT", "SINGULARITY_OCI_RUN", "CMDLINE_ARGS"} {
				if _, ok := r.env[leak]; ok {
					t.Errorf("%s leaks into the environment", leak)
				}
			}
			if r.env["PWD"] != "/" || r.env["SINGULARITY_COMMAND"] != "run" {
				t.Errorf("environment %q", r.environ)
			}
			compareWithDash(t, files["+/.singularity.d/runscript"], c.args, r)
		})
	}
}

func compareWithDash(t *testing.T, script string, args []string, r result) {
	dash := needs(t, "dash")
	file := filepath.Join(t.TempDir(), "runscript")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dash, append([]string{file}, args...)...)
	for _, e := range r.environ {
		if !strings.HasPrefix(e, "PATH=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, "PATH="+defaultPath)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, word := range r.args[2:] {
		fmt.Fprintf(&want, "<%s>\n", word)
	}
	if string(out) != want.String() {
		t.Errorf("dash passes %q, we %q", out, want.String())
	}
}

func TestChoose(t *testing.T) {
	const script = "+/.singularity.d/runscript"
	for _, c := range []struct {
		name    string
		files   map[string]string
		kind    Kind
		args    []string
		env     []string
		want    []string
		code    int // of an ExitError, where want is nil
		warning string
		shell   string
	}{
		{name: "exec takes words as they are", kind: Exec, args: []string{"echo", "$HOME", `\$x`}, want: []string{"echo", "$HOME", `\$x`}},
		{name: "a plain runscript", kind: Run, args: []string{"a b"}, files: map[string]string{script: "#!/bin/sh\necho\n"}, want: []string{"/.singularity.d/runscript", "a b"}},
		{name: "a runscript without permission", kind: Run, args: []string{"-c", "x"}, files: map[string]string{"/.singularity.d/runscript": "echo\n", "+/bin/sh": ""},
			want: []string{"/bin/sh", "-c", "x"}, warning: "No runscript found in container, executing /bin/sh"},
		{name: "an old image", kind: Run, files: map[string]string{"+/singularity": "#!/bin/sh\n", "+/bin/sh": ""}, want: []string{"/singularity"}},
		{name: "nothing to run", kind: Run, files: map[string]string{"+/bin/app": ""}, code: 1, warning: "No runscript and no /bin/sh executable found in container, aborting"},
		{name: "an app", kind: Run, env: []string{"SINGULARITY_APPNAME=foo"}, files: map[string]string{"+/scif/apps/foo/scif/runscript": ""}, want: []string{"/scif/apps/foo/scif/runscript"}},
		{name: "an app without a runscript", kind: Run, env: []string{"SINGULARITY_APPNAME=foo"}, files: map[string]string{script: ""}, code: 1, warning: "no runscript for contained app: foo"},
		{name: "a runscript that ends itself", kind: Run, files: map[string]string{script: "eval \"set ${SINGULARITY_OCI_RUN}\"\nexit 5\n"}, code: 5},
		{name: "a runscript that fails at its end", kind: Run, files: map[string]string{script: "eval \"set ${SINGULARITY_OCI_RUN}\"\nfalse\n"}, code: 1},
		{name: "a shell by name", kind: Shell, env: []string{"SINGULARITY_SHELL=/bin/dash"}, files: map[string]string{"+/bin/dash": "", "+/bin/bash": ""}, want: []string{"/bin/dash"}},
		{name: "a shell that is not there", kind: Shell, env: []string{"SINGULARITY_SHELL=/bin/zsh"}, files: map[string]string{"+/bin/bash": ""}, want: []string{"/bin/bash", "--norc"}, shell: "/bin/bash"},
		{name: "bash before sh", kind: Shell, args: []string{"-x"}, files: map[string]string{"+/bin/bash": "", "+/bin/sh": ""}, want: []string{"/bin/bash", "--norc", "-x"}, shell: "/bin/bash"},
		{name: "sh", kind: Shell, files: map[string]string{"+/bin/sh": ""}, want: []string{"/bin/sh"}, shell: "/bin/sh"},
		{name: "no shell", kind: Shell, files: map[string]string{"/bin/sh": ""}, code: 1, warning: "/bin/sh does not exist in container"},
		{name: "a test", kind: Test, args: []string{"x"}, files: map[string]string{"+/.singularity.d/test": ""}, want: []string{"/.singularity.d/test", "x"}},
		{name: "no test", kind: Test, files: map[string]string{"+/bin/sh": ""}, code: 0, warning: "No test script found in container, exiting"},
		{name: "an app's test", kind: Test, env: []string{"SINGULARITY_APPNAME=foo"}, files: map[string]string{"+/scif/apps/foo/scif/test": ""}, want: []string{"/scif/apps/foo/scif/test"}},
		{name: "an app without a test", kind: Test, env: []string{"SINGULARITY_APPNAME=foo"}, files: map[string]string{"+/bin/sh": ""}, code: 1, warning: "No tests for contained app: foo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := at(t, container(t, c.files), action{Kind: c.kind, Args: c.args}, c.env...)
			var exit *ExitError
			switch {
			case c.want != nil && (r.err != nil || !slices.Equal(r.args, c.want)):
				t.Errorf("got %q, %v; want %q", r.args, r.err, c.want)
			case c.want == nil && (!errors.As(r.err, &exit) || exit.Code != c.code):
				t.Errorf("got %q, %v; want exit status %d", r.args, r.err, c.code)
			}
			if got := strings.Join(r.warnings, "|"); got != c.warning {
				t.Errorf("warned %q, want %q", got, c.warning)
			}
			if r.env["SHELL"] != c.shell {
				t.Errorf("SHELL is %q, want %q", r.env["SHELL"], c.shell)
			}
		})
	}
}

func TestResolveRefusesNonsense(t *testing.T) {
	for _, a := range []action{{Kind: "dance"}, {Kind: Exec}} {
		if r := at(t, t.TempDir(), a); r.err == nil {
			t.Errorf("%+v was resolved to %q", a, r.args)
		}
	}
	in := inside{limit: 1}
	if err := in.resolve([]byte("{"), &oci.Process{}, nil); err == nil {
		t.Error("took half a JSON text")
	}
}
