package native

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// needs skips a test without a program, and fails it where nothing may be skipped.
func needs(t *testing.T, program string) string {
	t.Helper()
	file, err := exec.LookPath(program)
	if err == nil {
		return file
	}
	if os.Getenv("CORACLE_TEST_STRICT") == "1" {
		t.Fatalf("needs %s: %v", program, err)
	}
	t.Skipf("needs %s", program)
	return ""
}

// TestEvaluationAgreesWithDash sources scripts with the embedded interpreter
// and with dash, and compares what they export.
func TestEvaluationAgreesWithDash(t *testing.T) {
	dash := needs(t, "dash")
	for _, script := range []string{
		`export A=1 B="two words" C='$A'; export D="$A$B"`,
		`export A=a\ b\'c\"d\$e\\f\*; B=x\
y; export B`,
		`export A="a\"b\$c\\d\e\` + "`" + `f'g" B='a\b"c'`,
		`export A=${NONE:-def} B=${HOME:+set} C=${NONE-} D=${HOME#/home} E=${HOME##*/} F=${HOME%/*} G=${#HOME}`,
		`export K="${K:-"V"}" L="${L:-"a b  c"}" M="${M:-}" N="${N:-"\$x \"q\" \\ \` + "`" + `"}"`,
		`export A=$(echo one; echo two) B="$(printf 'x\ny\n\n')" C=` + "`echo back`",
		`if [ -z "$LD_LIBRARY_PATH" ]; then LD_LIBRARY_PATH=/l; else LD_LIBRARY_PATH="$LD_LIBRARY_PATH:/l"; fi; export LD_LIBRARY_PATH`,
		`LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/l"; export LD_LIBRARY_PATH`,
		`for i in 1 2 3; do A="$A$i"; done; export A`,
		`i=0; while [ $i -lt 5 ]; do i=$((i+1)); done; export i N=$((7*6/4%4 + (1<<4) | 1))`,
		`case $HOME in /home/*) A=yes;; *) A=no;; esac; export A`,
		`f() { local x=in; A="$x$1"; return 3; }; x=out; f arg; export A x S=$?`,
		`unset HOME; export A=${HOME-unset}`,
		`set -- a "b c" d; export N=$# ALL="$*" AT="$@" TWO=$2; shift; export ONE=$1`,
		`IFS=:; set -- $PATHLIKE; export N=$#; PATHLIKE=a:b:c; set -- $PATHLIKE; export M=$# Z=$3`,
		`export A=1; (A=2; export A); { B=3; }; export B`,
		`A=1 true; export A=${A:-unset}`,
		`true && export A=and || export A=or; false || export B=or; ! false && export C=not`,
		`export A=~ B=~/x C="~" D=a~`,
		`read A <<END
here $HOME "quoted"
END
export A`,
		`export A='multi
line' B="tab	tab" C=ünïcödé D="a	 b"`,
		`eval 'export A="$HOME"'; eval "B='x y'"; export B`,
		`readonly R=1; export R`,
		`export A="a b"; B=$A; C=$B"  "$A; export B C`,
		`test -n "" -o -n x && export A=1; [ "a" = "a" -a 1 -lt 2 ] && export B=2; [ ! -e /nonexistent ] && export C=3`,
		`export PATH=/bin; export PATH="/opt/bin:${PATH}"; export PATH="${PATH}:/z"`,
		`export A=${NONE=assigned}; export B=$NONE`,
		`# comment
export A=1 # trailing
: ${B:=default}; export B`,
	} {
		theirs := dashEnv(t, dash, script)
		root := container(t, map[string]string{"/.singularity.d/env/20-x.sh": script + "\n"})
		r := at(t, root, execTrue)
		if r.err != nil {
			t.Errorf("%s\n%v", script, r.err)
			continue
		}
		for _, own := range []string{"PATH", "HOME", "SINGULARITY_NAME", "SINGULARITY_CONTAINER", "SINGULARITY_COMMAND", "SINGULARITY_ENVIRONMENT", "PS1", "PROMPT_COMMAND", "PWD"} {
			if _, ok := theirs[own]; !ok {
				delete(r.env, own)
			}
		}
		delete(theirs, "PWD")
		delete(r.env, "PWD")
		for name, want := range theirs {
			if got, ok := r.env[name]; !ok || got != want {
				t.Errorf("%s\n%s is %q, dash has %q (stderr: %s)", script, name, got, want, r.stderr)
			}
			delete(r.env, name)
		}
		if len(r.env) > 0 {
			t.Errorf("%s\nextra %q", script, r.env)
		}
	}
}

func dashEnv(t *testing.T, dash, script string) map[string]string {
	t.Helper()
	env := needs(t, "env")
	file := filepath.Join(t.TempDir(), "x.sh")
	if err := os.WriteFile(file, []byte(script+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dash, "-c", ". "+file+"; exec "+env+" -0", "actions/exec", "true")
	cmd.Env = []string{"HOME=/home/me", "SINGULARITY_NAME=x.sif", "SINGULARITY_CONTAINER=/x.sif"}
	cmd.Dir = "/"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s\n%v %s", script, err, &stderr)
	}
	vars := map[string]string{}
	for e := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		name, value, _ := strings.Cut(e, "=")
		vars[name] = value
	}
	return vars
}
