package native

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/oci"
)

// metaDir is where an image describes itself.
const (
	metaDir = "/.singularity.d"
	envDir  = metaDir + "/env"
)

// scriptsLimit ends environment scripts that loop.
const scriptsLimit = commandLimit

// maxScript bounds what is read of one script; a runscript is text of people.
const maxScript = 16 << 20

// action is what has to be found out inside the container, as JSON in the plan.
type action struct {
	Kind   Kind      `json:"kind"`
	Args   []string  `json:"args,omitempty"`
	Inject variables `json:"inject,omitempty"` // for after 99-base.sh
	NoEval bool      `json:"noEval,omitempty"` // Inject is literal, not for the shell to expand

	Scripts []script `json:"scripts,omitempty"` // of the image; without any they are looked for inside
}

// resolution is the state of one Resolve.
type resolution struct {
	shell
	action
	host     []string    // the environment before any script
	vars     environment // what scripts start from
	started  bool
	injected bool
}

// Resolve sources the image's environment scripts and says what to execute: it
// replaces p's Args and Env. The order of things is SingularityCE's (its
// action_scripts.go), without a script that has to be interpreted for it. It
// hands to warn what the user should know.
//
// An *ExitError asks to end with its status instead of executing anything.
// Scripts have the standard input, output and error of the process.
//
// Runs in: x init, inside the root, with the payload's ids, working directory
// and umask, before execve. It starts programs that scripts run and waits for
// them, so nothing else may reap children meanwhile.
func Resolve(raw json.RawMessage, p *oci.Process, warn func(text string)) error {
	return inside{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, limit: scriptsLimit}.resolve(raw, p, warn)
}

var _ oci.Resolver = Resolve

// inside is the container as scripts find it.
type inside struct {
	root           string // what all paths start with: empty but in tests
	stdin          *os.File
	stdout, stderr io.Writer
	limit          time.Duration // for all scripts together
}

func (in inside) resolve(raw json.RawMessage, p *oci.Process, warn func(text string)) error {
	s := &resolution{host: p.Env, vars: environment{}}
	if err := json.Unmarshal(raw, &s.action); err != nil {
		return fmt.Errorf("read action: %w", err)
	}
	s.inside, s.warn, s.virtual = in, warn, map[string][]byte{}
	for _, f := range s.Scripts {
		s.virtual[path.Join(envDir, f.Name)] = []byte(f.Content)
	}
	s.dir = s.workingDir(p.Cwd)

	ctx, cancel := context.WithTimeout(context.Background(), in.limit)
	defer cancel()
	err := s.sourceEnvironment(ctx)
	if err == nil && s.program == nil {
		s.program, err = s.choose(ctx, s.restore())
	}
	if err != nil {
		return err
	}
	p.Args, p.Env = s.program.args, s.program.env
	return nil
}

// workingDir is where the process is, by the name that the plan gave it: $PWD
// keeps the links in a path.
func (s *resolution) workingDir(candidates []string) string {
	var here, st unix.Stat_t
	if err := unix.Stat(".", &here); err == nil && s.root == "" {
		for _, dir := range candidates {
			if path.IsAbs(dir) && unix.Stat(dir, &st) == nil && st.Dev == here.Dev && st.Ino == here.Ino {
				return dir
			}
		}
		if dir, err := unix.Getwd(); err == nil && path.IsAbs(dir) { // "(unreachable)/…" is not
			return dir
		}
	}
	return "/"
}

const runtimeVars = "99-runtimevars.sh"

// sourceEnvironment runs the image's scripts in the order of their names, and
// what belongs between them.
func (s *resolution) sourceEnvironment(ctx context.Context) error {
	s.clearHost()
	names, err := s.scriptNames()
	if err != nil {
		return s.sourceOld(ctx)
	}
	if !slices.Contains(names, runtimeVars) {
		names = append(names, runtimeVars)
	}
	for _, name := range names {
		if err := s.sourceStep(ctx, name); err != nil || s.program != nil {
			return err
		}
	}
	return nil
}

// sourceStep runs one script, with what has to come before and after it.
func (s *resolution) sourceStep(ctx context.Context, name string) error {
	switch name {
	case "90-environment.sh":
		if err := s.defaultPath(ctx); err != nil {
			return err
		}
	case runtimeVars:
		// The image's own has had one content since it exists; ours takes its place.
		if err := s.inject(ctx); err != nil { // without 99-base.sh, where SingularityCE loses them
			return err
		}
		return s.applyUserPath(ctx)
	}
	if err := s.sourceFile(ctx, path.Join(envDir, name)); err != nil || s.program != nil {
		return err
	}
	switch name {
	case "10-docker2singularity.sh", "10-docker.sh":
		return s.fixPath(ctx)
	case "99-base.sh":
		return s.inject(ctx)
	}
	return nil
}

// sourceOld does for images without /.singularity.d/env: bare file systems, and
// those of Singularity before 2.3, which have /environment.
func (s *resolution) sourceOld(ctx context.Context) error {
	const name = "/environment"
	if st, err := os.Stat(s.root + name); err == nil && st.Mode().IsRegular() {
		if err := s.sourceFile(ctx, name); err != nil || s.program != nil {
			return err
		}
		if err := s.fixPath(ctx); err != nil {
			return err
		}
	}
	if err := s.inject(ctx); err != nil {
		return err
	}
	return s.applyUserPath(ctx)
}

// scriptNames lists the environment scripts in their order.
func (s *resolution) scriptNames() (names []string, err error) {
	if len(s.Scripts) > 0 {
		for _, f := range s.Scripts {
			names = append(names, f.Name)
		}
		return names, nil
	}
	entries, err := os.ReadDir(s.root + envDir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if isScript(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// clearHost drops the host's variables for as long as scripts run, so that the
// image's own never depend on them.
func (s *resolution) clearHost() {
	for _, e := range s.host {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "HOME", "UID", "SINGULARITY_APPNAME", "SINGULARITY_SHELL":
			s.vars.set(name, value, true, false)
		case "SINGULARITY_NAME", "SINGULARITY_CONTAINER", "SINGULARITY_INSTANCE", "CORACLE_NAME", "CORACLE_CONTAINER":
			s.vars.set(name, value, true, true)
		}
	}
}

// sourceFile sources a script of the image if it is a regular file and says
// anything; one with comments alone is not worth an interpreter.
func (s *resolution) sourceFile(ctx context.Context, name string) error {
	content, ok := s.virtual[name]
	var err error
	if !ok {
		content, err = s.read(name)
	}
	if err != nil {
		return nil // a link to nowhere, a directory: as test -f has it
	}
	if blank(content) {
		return nil
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	s.virtual[name] = repaired(content, name)
	return s.source(ctx, name)
}

// read returns a regular file's content.
func (s *resolution) read(name string) ([]byte, error) {
	content, err := HostFiles{}.ReadFile(s.root+name, maxScript)
	return content, err
}

// blank tells a script of nothing but comments.
func blank(content []byte) bool {
	for line := range bytes.Lines(content) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// begin starts the interpreter if that has not been done.
func (s *resolution) begin(ctx context.Context) error {
	if s.started {
		return nil
	}
	s.started = true
	if err := s.start(s.vars, s.Args); err != nil {
		return err
	}
	return s.run(ctx, "", naked("export", "PWD"))
}

// lookup returns a variable as scripts see it.
func (s *resolution) lookup(name string) (string, bool) {
	if s.started {
		return s.shell.lookup(name)
	}
	v := s.vars[name]
	return v.Str, v.Set
}

// set exports a variable.
func (s *resolution) set(ctx context.Context, name, value string) error {
	if s.started {
		return s.export(ctx, variable{name, value})
	}
	s.vars.set(name, value, true, false)
	return nil
}

// defaultPath sets PATH if no script has.
func (s *resolution) defaultPath(ctx context.Context) error {
	if _, ok := s.lookup("PATH"); ok {
		return nil
	}
	return s.set(ctx, "PATH", defaultPath)
}

// fixPath appends to PATH those of the default directories that it lacks.
func (s *resolution) fixPath(ctx context.Context) error {
	value, _ := s.lookup("PATH")
	var dirs []string
	if value != "" {
		dirs = strings.Split(value, ":")
	}
	for dir := range strings.SplitSeq(defaultPath, ":") {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return s.set(ctx, "PATH", strings.Join(dirs, ":"))
}

// inject sets the variables that the user wants inside, stronger than the
// image's, once.
func (s *resolution) inject(ctx context.Context) error {
	if s.injected {
		return nil
	}
	s.injected = true
	if err := s.defaultPath(ctx); err != nil {
		return err
	}
	for _, v := range s.Inject {
		if v.Name == "LD_LIBRARY_PATH" && v.Value != "" {
			v.Value += ":" + metaDir + "/libs"
		}
		if err := s.injectOne(ctx, v); err != nil || s.program != nil {
			return err
		}
	}
	return nil
}

// injectOne sets one variable. Unless evaluation is off the value is what
// stands between double quotes in a shell, with its double quotes escaped.
func (s *resolution) injectOne(ctx context.Context, v variable) error {
	if s.NoEval || !strings.ContainsAny(v.Value, "$`\\") {
		return s.set(ctx, v.Name, v.Value)
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	text := `export ` + v.Name + `="` + strings.ReplaceAll(v.Value, `"`, `\"`) + `"`
	file, err := s.parser.Parse(strings.NewReader(text), v.Name)
	if err != nil || len(file.Stmts) != 1 {
		// In SingularityCE this loses all variables, not just this one.
		s.warn(fmt.Sprintf("%s is taken as it is, for no shell can evaluate it: %q", v.Name, v.Value))
		return s.set(ctx, v.Name, v.Value)
	}
	return s.run(ctx, v.Name, file.Stmts...)
}

// applyUserPath carries out SINGULARITYENV_PREPEND_PATH, _APPEND_PATH and _PATH.
func (s *resolution) applyUserPath(ctx context.Context) error {
	const prefix = "SING_USER_DEFINED_"
	value, _ := s.lookup("PATH")
	used := false
	for _, kind := range []string{"PREPEND_PATH", "APPEND_PATH", "PATH"} {
		user, ok := s.lookup(prefix + kind)
		used = used || ok
		switch {
		case user == "":
		case kind == "PREPEND_PATH":
			value = user + ":" + value
		case kind == "APPEND_PATH":
			value += ":" + user
		default:
			value = user
		}
	}
	if err := s.set(ctx, "PATH", value); err != nil || !used {
		return err
	}
	for _, kind := range []string{"PREPEND_PATH", "APPEND_PATH", "PATH"} {
		if !s.started {
			delete(s.vars, prefix+kind)
			continue
		}
		if err := s.run(ctx, "", command("unset", prefix+kind)); err != nil {
			return err
		}
	}
	return nil
}

// restore makes the payload's environment: what scripts have exported, and
// those of the host's variables that none has set.
func (s *resolution) restore() map[string]string {
	var vars map[string]string
	if s.started {
		vars = exported(environment(s.runner.Vars))
	} else {
		vars = exported(s.vars)
	}
	for _, e := range s.host {
		name, value, _ := strings.Cut(e, "=")
		if inside, set := s.lookup(name); !set {
			vars[name] = value
		} else if inside == "" {
			delete(vars, name)
		}
	}
	vars["PWD"] = s.dir
	if s.started {
		vars["PWD"] = s.runner.Dir
	}
	prompt, _ := s.lookup("PS1")
	if prompt == "" {
		prompt = vars["PS1"]
	}
	if prompt == "" {
		prompt = "Singularity> "
		vars["PS1"] = prompt
	}
	// Bash would take PS1 from its own start-up files: it evaluates this after them.
	if own := vars["PROMPT_COMMAND"]; own == "" {
		vars["PROMPT_COMMAND"] = `PS1="` + prompt + `"; unset PROMPT_COMMAND`
	} else {
		vars["PROMPT_COMMAND"] = own + `; PROMPT_COMMAND="${PROMPT_COMMAND%%; PROMPT_COMMAND=*}"; PS1="` + prompt + `"`
	}
	if vars["SINGULARITY_ENVIRONMENT"] == "" {
		vars["SINGULARITY_ENVIRONMENT"] = envDir + "/91-environment.sh"
	}
	return vars
}
