package native

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
)

// choose finds the program of the action, with vars as the environment.
func (s *resolution) choose(ctx context.Context, vars map[string]string) (*program, error) {
	switch s.Kind {
	case Exec:
		if len(s.Args) == 0 {
			return nil, fmt.Errorf("%s action requires a process", s.Kind)
		}
		return &program{args: s.Args, env: environ(vars)}, nil // the executor looks it up
	case Shell:
		return s.chooseShell(vars)
	case Run:
		return s.chooseRunscript(ctx, vars)
	case Test:
		return s.chooseTest(vars)
	}
	return nil, fmt.Errorf("unknown action %q", s.Kind)
}

// runnable tells whether a file can be executed, as test -x does.
func (s *resolution) runnable(name string) bool {
	return name != "" && unix.Access(s.root+name, unix.X_OK) == nil
}

func (s *resolution) at(file string, vars map[string]string, args ...string) (*program, error) {
	return &program{args: append([]string{file}, args...), env: environ(vars)}, nil
}

// fail ends the container with status 1 and a line of why.
func (s *resolution) fail(format string, args ...any) (*program, error) {
	s.warn(fmt.Sprintf(format, args...))
	return nil, &ExitError{Code: 1}
}

// chooseShell prefers what --shell asked for, then bash, then sh.
func (s *resolution) chooseShell(vars map[string]string) (*program, error) {
	if own := vars["SINGULARITY_SHELL"]; s.runnable(own) {
		return s.at(own, vars, s.Args...)
	}
	if s.runnable("/bin/bash") {
		vars["SHELL"] = "/bin/bash"
		return s.at("/bin/bash", vars, append([]string{"--norc"}, s.Args...)...)
	}
	if s.runnable("/bin/sh") {
		vars["SHELL"] = "/bin/sh"
		return s.at("/bin/sh", vars, s.Args...)
	}
	return s.fail("/bin/sh does not exist in container")
}

// chooseRunscript finds what `run` runs.
func (s *resolution) chooseRunscript(ctx context.Context, vars map[string]string) (*program, error) {
	const runscript = metaDir + "/runscript"
	if app := vars["SINGULARITY_APPNAME"]; app != "" {
		file := "/scif/apps/" + app + "/scif/runscript"
		if s.runnable(file) {
			return s.at(file, vars, s.Args...)
		}
		return s.fail("no runscript for contained app: %s", app)
	}
	switch {
	case s.runnable(runscript):
		content, err := s.read(runscript)
		if err == nil && fromOCI(content) {
			return s.interpret(ctx, runscript, content, vars)
		}
		return s.at(runscript, vars, s.Args...)
	case s.runnable("/singularity"):
		return s.at("/singularity", vars, s.Args...)
	case s.runnable("/bin/sh"):
		s.warn("No runscript found in container, executing /bin/sh")
		return s.at("/bin/sh", vars, s.Args...)
	}
	return s.fail("No runscript and no /bin/sh executable found in container, aborting")
}

// chooseTest finds what `test` runs. Without a test script the test passes.
func (s *resolution) chooseTest(vars map[string]string) (*program, error) {
	if app := vars["SINGULARITY_APPNAME"]; app != "" {
		file := "/scif/apps/" + app + "/scif/test"
		if s.runnable(file) {
			return s.at(file, vars, s.Args...)
		}
		return s.fail("No tests for contained app: %s", app)
	}
	if s.runnable(metaDir + "/test") {
		return s.at(metaDir+"/test", vars, s.Args...)
	}
	s.warn("No test script found in container, exiting")
	return nil, &ExitError{}
}

// fromOCI tells a runscript that was generated from ENTRYPOINT and CMD, of any
// builder since Singularity 3: it has this very line.
func fromOCI(content []byte) bool {
	for line := range bytes.Lines(content) {
		if string(bytes.TrimRight(line, "\n")) == `eval "set ${SINGULARITY_OCI_RUN}"` {
			return true
		}
	}
	return false
}

// interpret runs such a runscript here, up to its exec: the image may have no
// shell, and one process less starts.
func (s *resolution) interpret(ctx context.Context, name string, content []byte, vars map[string]string) (*program, error) {
	inner := &shell{inside: s.inside, dir: vars["PWD"], warn: s.warn}
	start := environment{}
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		start[k] = expand.Variable{Set: true, Kind: expand.String, Str: vars[k], Exported: true}
	}
	if err := inner.start(start, s.Args); err != nil {
		return nil, err
	}
	file, err := inner.parser.Parse(bytes.NewReader(content), name)
	if err != nil {
		return nil, err
	}
	repair(file)
	if err := inner.run(ctx, name, file.Stmts...); err != nil {
		return nil, err
	}
	if inner.program == nil {
		return nil, &ExitError{Code: inner.status}
	}
	return inner.program, nil
}
