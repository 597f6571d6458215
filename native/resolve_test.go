package native

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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

func BenchmarkResolve(b *testing.B) {
	root := container(b, standardScripts)
	raw := marshal(b, action{Kind: Exec, Args: []string{"true"}})
	env := []string{"HOME=/home/me", "PATH=" + defaultPath, "SINGULARITY_NAME=x.sif", "SINGULARITY_CONTAINER=/x.sif"}
	for range 40 {
		env = append(env, "VAR"+strings.Repeat("x", len(env))+"=some value")
	}
	b.ReportAllocs()
	for b.Loop() {
		p := &oci.Process{Env: env}
		if err := resolve(root, raw, p, func(string) {}); err != nil {
			b.Fatal(err)
		}
	}
}

// run resolves in root and returns the result with what was warned.
func run(t testing.TB, root string, a action, env ...string) (*oci.Process, []string, error) {
	t.Helper()
	var warnings []string
	p := &oci.Process{Env: append([]string{"HOME=/home/me", "PATH=" + defaultPath, "SINGULARITY_COMMAND=" + string(a.Kind)}, env...)}
	err := resolve(root, marshal(t, a), p, func(s string) { warnings = append(warnings, s) })
	return p, warnings, err
}

func TestResolveInjectsAfterTheImagesVariables(t *testing.T) {
	root := container(t, standardScripts)
	inject := variables{{"MYVAR", "$(echo hi)"}, {"JAVA_HOME", "/test"}}
	p, warnings, err := run(t, root, action{Kind: Exec, Args: []string{"true"}, Inject: inject}, "HOST_VAR=1")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := []string{
		"HOME=/home/me", "HOST_VAR=1", "JAVA_HOME=/test", "LANG=C.UTF-8", "LD_LIBRARY_PATH=/.singularity.d/libs", "MYVAR=hi",
		"PATH=/usr/local/bin:/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin",
		`PROMPT_COMMAND=PS1="Singularity> "; unset PROMPT_COMMAND`, "PS1=Singularity> ", "PWD=/",
		"SINGULARITY_COMMAND=exec", "SINGULARITY_ENVIRONMENT=/.singularity.d/env/91-environment.sh",
	}
	if diff := cmp.Diff(want, p.Env); diff != "" {
		t.Error(diff)
	}
}
