package image

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// hostile are words that quoting gets wrong easily.
var hostile = []string{
	"plain", "two words", "", "it's", `say "hi"`, "$HOME", "`id`", `back\slash`, `\\two`, "new\nline", "*", "~", "-n", "--", "a=b",
	"$(echo no)", "tab\there", "ünïcode", `'"'`, "${X:-y}", "!event", "#comment", ";", "a&b", "{1,2}", `trailing\`, `{"a":1,"b":{"c":2}}`, "}",
}

// shells run a script with arguments and the environment given and return the
// words that it executes.
var shells = map[string]func(t *testing.T, script string, env, args []string) []string{
	"sh": func(t *testing.T, script string, env, args []string) []string {
		return shell(t, []string{"/bin/sh"}, script, env, args)
	},
	"bash": func(t *testing.T, script string, env, args []string) []string {
		needs(t, "bash")
		return shell(t, []string{"bash"}, script, env, args)
	},
	"busybox": func(t *testing.T, script string, env, args []string) []string {
		needs(t, "busybox")
		return shell(t, []string{"busybox", "sh"}, script, env, args)
	},
	"mvdan": interpret,
}

// shell replaces the program that a script executes by one that shows its
// arguments.
func shell(t *testing.T, shell []string, script string, env, args []string) []string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "script")
	script = strings.ReplaceAll(script, `exec "$@"`, `for w in "$@"; do printf '%s\000' "$w"; done; exit 0`)
	if err := os.WriteFile(file, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(shell[0], append(append(shell[1:len(shell):len(shell)], file), args...)...)
	cmd.Env, cmd.Dir = append(env, "HOME=/home/me"), dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return []string{"FAILED", stderr.String()}
	}
	return words(string(out))
}

func words(out string) []string {
	if out == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
}

// interpret runs the script as SingularityCE does: it is interpreted, and what
// it execs is caught.
func interpret(t *testing.T, script string, env, args []string) []string {
	t.Helper()
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(script), "runscript")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var stderr bytes.Buffer
	caught := func(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
		return func(_ context.Context, argv []string) error { got = argv; return nil }
	}
	r, err := interp.New(interp.StdIO(nil, nil, &stderr), interp.Env(expand.ListEnviron(append(env, "HOME=/home/me")...)),
		interp.Params(append([]string{"--"}, args...)...), interp.ExecHandlers(caught))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context(), file); err != nil {
		return []string{"FAILED", stderr.String()}
	}
	return got
}

// TestRunscript is the table S113 to S121.
func TestRunscript(t *testing.T) {
	date, utc := []string{"date"}, []string{"--utc"}
	noEval := []string{"SINGULARITY_NO_EVAL=1"}
	cases := []struct {
		name            string
		entrypoint, cmd []string
		env, args, want []string
	}{
		{"entrypoint only", date, nil, nil, nil, []string{"date"}},
		{"entrypoint only, arguments", date, nil, nil, []string{"--utc"}, []string{"date", "--utc"}},
		{"command only", nil, date, nil, nil, []string{"date"}},
		{"command only, arguments", nil, date, nil, []string{"echo", "hello"}, []string{"echo", "hello"}},
		{"both", date, utc, nil, nil, []string{"date", "--utc"}},
		{"both, arguments", date, utc, nil, []string{"-R"}, []string{"date", "-R"}},
		{"neither, arguments", nil, nil, nil, []string{"echo", "x"}, []string{"echo", "x"}},
		{"an argument is evaluated", nil, []string{"sh"}, nil, []string{"echo", "$HOME"}, []string{"echo", "/home/me"}},
		{"an escaped argument", nil, []string{"sh"}, nil, []string{"echo", `\$HOME`}, []string{"echo", "$HOME"}},
		{"no evaluation", nil, []string{"sh"}, noEval, []string{"echo", "$HOME"}, []string{"echo", "$HOME"}},
		{"an option first", nil, date, nil, []string{"-x", "y"}, []string{"-x", "y"}},
		{"an empty argument", date, utc, nil, []string{""}, []string{"date", ""}},
		{"the image's words", hostile, nil, nil, nil, hostile},
		{"the image's words in both", hostile, hostile, nil, nil, append(hostile[:len(hostile):len(hostile)], hostile...)},
		{"the image's words, no evaluation", hostile, hostile, noEval, nil, append(hostile[:len(hostile):len(hostile)], hostile...)},
		{"arguments, no evaluation", date, utc, noEval, hostile, append([]string{"date"}, hostile...)},
		{"neither, arguments, no evaluation", nil, nil, noEval, []string{"-x"}, []string{"-x"}},
	}
	for name, run := range shells {
		t.Run(name, func(t *testing.T) {
			for _, c := range cases {
				got := run(t, runscript(c.entrypoint, c.cmd), c.env, c.args)
				if !reflect.DeepEqual(got, c.want) {
					t.Errorf("%s: %q, want %q", c.name, got, c.want)
				}
			}
			for _, env := range [][]string{nil, noEval} {
				if got := run(t, runscript(nil, nil), env, nil); len(got) != 2 || !strings.Contains(got[1], "no ENTRYPOINT and no CMD") {
					t.Errorf("neither: %q", got)
				}
			}
		})
	}
}

func TestRunscriptHasTheLineThatRuntimesLookFor(t *testing.T) {
	if !strings.Contains(runscript(nil, []string{"x"}), "\neval \"set ${SINGULARITY_OCI_RUN}\"\n") {
		t.Error("the line is missing")
	}
}

func TestEnvironmentScript(t *testing.T) {
	env := []string{"PATH=/opt:$PATH", "NOVALUE", "2BAD=x", "A-B=x", "=x", "OUTER=image"}
	want := []string{"/opt:$PATH", "", "mine"}
	script := ""
	for i, w := range hostile {
		name := "V" + strings.Repeat("x", i)
		env = append(env, name+"="+w)
		want = append(want, w)
		script += ` "${` + name + `}"`
	}
	script = environmentScript(env) + `set -- "$PATH" "$NOVALUE" "$OUTER"` + script + "\nexec \"$@\"\n"
	for name, run := range shells {
		t.Run(name, func(t *testing.T) {
			// An empty value is one that is not set, in the form that images have.
			if got := run(t, script, []string{"PATH=/usr/bin:/bin", "OUTER=mine"}, nil); !reflect.DeepEqual(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
	if strings.Contains(script, "BAD") || strings.Contains(script, "A-B") {
		t.Errorf("a name that is none:\n%s", script)
	}
}

// TestScriptsParse holds the scripts of /.singularity.d to what shells accept.
func TestScriptsParse(t *testing.T) {
	m := &metadata{config: &imageConfig{}}
	n := 0
	for _, f := range m.metaFiles(true) {
		if !bytes.HasPrefix(f.content, []byte("#!/bin/sh\n")) {
			continue
		}
		n++
		if _, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(bytes.NewReader(f.content), f.path); err != nil {
			t.Error(err)
		}
		if f.mode != 0o755 {
			t.Errorf("%s has mode %v", f.path, f.mode)
		}
	}
	if n < 14 {
		t.Errorf("there are %d scripts only", n)
	}
}

// TestBaseEnvironment sources what every image has.
func TestBaseEnvironment(t *testing.T) {
	script := ""
	for _, name := range []string{"01-base.sh", "90-environment.sh", "94-appsbase.sh", "95-apps.sh", "99-base.sh", "99-runtimevars.sh"} {
		text, err := scripts.ReadFile("singularity.d/env/" + name)
		if err != nil {
			t.Fatal(err)
		}
		script += string(text)
	}
	script += "set -- \"$PATH\" \"$LD_LIBRARY_PATH\" \"$PS1\" \"${SING_USER_DEFINED_PATH-none}\"\nexec \"$@\"\n"
	for name, run := range shells {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct{ env, want []string }{
				{nil, []string{"/bin", "/.singularity.d/libs", "Singularity> ", "none"}},
				{[]string{"LD_LIBRARY_PATH=/lib", "SING_USER_DEFINED_PREPEND_PATH=/first", "SING_USER_DEFINED_APPEND_PATH=/last"},
					[]string{"/first:/bin:/last", "/lib:/.singularity.d/libs", "Singularity> ", "none"}},
				{[]string{"SING_USER_DEFINED_PATH=/only"}, []string{"/only", "/.singularity.d/libs", "Singularity> ", "none"}},
			} {
				if got := run(t, script, append([]string{"PATH=/bin"}, c.env...), nil); !reflect.DeepEqual(got, c.want) {
					t.Errorf("%q: %q, want %q", c.env, got, c.want)
				}
			}
			if got := run(t, script, []string{"PATH=/bin", "SINGULARITY_APPNAME=none"}, nil); len(got) != 2 || got[1] != "Could not locate the container application: none\n" {
				t.Errorf("an application that is missing: %q", got)
			}
		})
	}
}
