package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// scriptName is $0 of environment scripts, as in SingularityCE.
const scriptName = metaDir + "/actions/exec"

// commandLimit ends a program that a script runs. SingularityCE has the same.
const commandLimit = time.Minute

// shell is one run of the embedded interpreter, in the container's root.
type shell struct {
	inside
	dir  string // working directory in the container
	warn func(text string)

	parser *syntax.Parser
	runner *interp.Runner
	status int // of the last command

	// virtual holds scripts that have been read already, by path.
	virtual map[string][]byte
	// program is set once a script says exec: what to become, with the
	// variables exported at that time.
	program *program
}

// program is what to execute.
type program struct {
	args, env []string
}

// start makes the interpreter. args are "$@" of its scripts.
func (s *shell) start(vars environment, args []string) error {
	s.parser = syntax.NewParser()
	runner, err := interp.New(
		interp.StdIO(s.stdin, s.stdout, s.stderr),
		interp.Interactive(true), // expands aliases, nothing else
		interp.Env(vars),
		func(r *interp.Runner) error { r.Dir = s.dir; return nil }, // interp.Dir would look for it outside of root
		interp.Params(append([]string{"--"}, args...)...),
		interp.CallHandler(s.call),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return s.exec }),
		interp.OpenHandler(s.open),
		interp.StatHandler(s.stat),
		interp.ReadDirHandler2(func(_ context.Context, dir string) ([]fs.DirEntry, error) { return os.ReadDir(s.root + dir) }),
	)
	if err != nil {
		return fmt.Errorf("start the shell interpreter: %w", err)
	}
	s.runner = runner
	return nil
}

// run interprets statements. A failing command is no error, as in a script
// without set -e; *ExitError is a script that has ended everything.
func (s *shell) run(ctx context.Context, name string, stmts ...*syntax.Stmt) error {
	err := guarded(func() error { return s.runner.Run(ctx, &syntax.File{Name: name, Stmts: stmts}) })
	var status interp.ExitStatus
	errors.As(err, &status)
	s.status = int(status)
	switch {
	case s.program != nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the scripts of %s take too long: %w", metaDir, ctx.Err())
	case err != nil && status == 0:
		return err
	case s.runner.Exited():
		return &ExitError{Code: s.status}
	}
	return nil
}

// guarded turns a panic of the interpreter, which scripts of unknown origin can
// provoke, into an error.
func guarded(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the shell interpreter stumbled: %v", p)
		}
	}()
	return run()
}

// source runs a script in the interpreter, as ". file" does.
func (s *shell) source(ctx context.Context, file string) error {
	return s.run(ctx, scriptName, command("source", file))
}

// export sets variables to values as they are.
func (s *shell) export(ctx context.Context, vars ...variable) error {
	decl := &syntax.DeclClause{Variant: &syntax.Lit{Value: "export"}}
	for _, v := range vars {
		decl.Args = append(decl.Args, &syntax.Assign{Name: &syntax.Lit{Value: v.Name}, Value: quoted(v.Value)})
	}
	return s.run(ctx, "", &syntax.Stmt{Cmd: decl})
}

// command is a simple command with words taken as they are.
func command(name string, args ...string) *syntax.Stmt {
	words := []*syntax.Word{{Parts: []syntax.WordPart{&syntax.Lit{Value: name}}}}
	for _, arg := range args {
		words = append(words, quoted(arg))
	}
	return &syntax.Stmt{Cmd: &syntax.CallExpr{Args: words}}
}

// naked is a declaration without a value.
func naked(keyword, name string) *syntax.Stmt {
	return &syntax.Stmt{Cmd: &syntax.DeclClause{Variant: &syntax.Lit{Value: keyword},
		Args: []*syntax.Assign{{Naked: true, Name: &syntax.Lit{Value: name}}}}}
}

func quoted(s string) *syntax.Word {
	return &syntax.Word{Parts: []syntax.WordPart{&syntax.SglQuoted{Value: s}}}
}

// lookup returns a variable's value and whether it is set, exported or not.
func (s *shell) lookup(name string) (string, bool) {
	v := s.runner.Vars[name]
	return v.String(), v.IsSet()
}

// exported are the variables that programs get.
func exported(env expand.Environ) map[string]string {
	all := map[string]string{}
	env.Each(func(name string, v expand.Variable) bool {
		if v.IsSet() && v.Exported && v.Kind == expand.String {
			all[name] = v.Str
		} else {
			delete(all, name) // an inner scope hides an outer one
		}
		return true
	})
	return all
}

// environ writes variables as execve takes them, sorted.
func environ(vars map[string]string) []string {
	env := make([]string, 0, len(vars))
	for name, value := range vars {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// Names of commands of our own, which no script can mean.
const (
	umaskCommand  = "\x00umask"
	declarePrefix = "\x00"
)

// call replaces commands that the interpreter lacks or would take for something else.
func (s *shell) call(_ context.Context, args []string) ([]string, error) {
	switch args[0] {
	case "umask":
		return append([]string{umaskCommand}, args[1:]...), nil
	case "trap", "fg", "bg":
		s.warn(args[0] + " is not supported by this shell interpreter")
		return []string{"true"}, nil
	case "export", "local", "declare", "nameref", "readonly", "typeset":
		// A declaration is a keyword and comes here only as \export, which the
		// scripts of conda write (mvdan.cc/sh issue 743).
		return append([]string{declarePrefix + args[0]}, args[1:]...), nil
	}
	return args, nil
}

// exec runs a program, or a command of our own.
func (s *shell) exec(ctx context.Context, args []string) error {
	hc := interp.HandlerCtx(ctx)
	name, declaration := strings.CutPrefix(args[0], declarePrefix)
	switch {
	case s.runner.Exited(): // "exec args"
		return s.become(hc, args)
	case args[0] == umaskCommand:
		return s.setUmask(hc, args[1:])
	case declaration:
		return s.declare(ctx, name, args[1:])
	}
	file, err := s.lookPath(hc.Dir, hc.Env.Get("PATH").String(), args[0])
	if err != nil {
		fmt.Fprintln(hc.Stderr, err)
		if errors.Is(err, fs.ErrPermission) {
			return interp.ExitStatus(126)
		}
		return interp.ExitStatus(127)
	}
	vars := exported(hc.Env)
	vars["PWD"] = hc.Dir
	limited, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(limited, s.root+file, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Env, cmd.Dir = environ(vars), s.root+hc.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = hc.Stdin, hc.Stdout, hc.Stderr
	return exitStatus(cmd.Run(), limited, args)
}

// exitStatus turns the end of a command into what the interpreter takes.
func exitStatus(err error, ctx context.Context, args []string) error {
	var ended *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ended):
		status, _ := ended.Sys().(syscall.WaitStatus)
		if status.Signaled() && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("command %q was killed after %s", strings.Join(args, " "), commandLimit)
		}
		if status.Signaled() {
			return interp.ExitStatus(128 + uint8(status.Signal()))
		}
		return interp.ExitStatus(uint8(status.ExitStatus()))
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return interp.ExitStatus(126)
	}
	return fmt.Errorf("command %q: %w", strings.Join(args, " "), err)
}

// become notes what a script wants to be replaced by. The executor finds it.
func (s *shell) become(hc interp.HandlerContext, args []string) error {
	vars := exported(hc.Env)
	vars["PWD"] = hc.Dir
	s.program = &program{args: args, env: environ(vars)}
	return nil
}

// setUmask is the builtin that the interpreter lacks.
func (s *shell) setUmask(hc interp.HandlerContext, args []string) error {
	if len(args) == 0 {
		old := unix.Umask(0)
		unix.Umask(old)
		fmt.Fprintf(hc.Stdout, "%04o\n", old)
		return nil
	}
	mask, err := strconv.ParseUint(args[0], 8, 9)
	if err != nil {
		fmt.Fprintf(hc.Stderr, "umask: %s: invalid octal number\n", args[0])
		return interp.ExitStatus(1)
	}
	unix.Umask(int(mask))
	return nil
}

// declare runs a declaration that was written with a backslash.
func (s *shell) declare(ctx context.Context, keyword string, args []string) error {
	decl := &syntax.DeclClause{Variant: &syntax.Lit{Value: keyword}}
	for _, arg := range args {
		name, value, assigns := strings.Cut(arg, "=")
		switch {
		case !assigns && validName(arg):
			decl.Args = append(decl.Args, &syntax.Assign{Naked: true, Name: &syntax.Lit{Value: arg}})
		case assigns && validName(name):
			decl.Args = append(decl.Args, &syntax.Assign{Name: &syntax.Lit{Value: name}, Value: quoted(value)})
		default: // an option
			decl.Args = append(decl.Args, &syntax.Assign{Naked: true, Value: quoted(arg)})
		}
	}
	// Not a file: Run on one implies an exit.
	return s.runner.Run(ctx, &syntax.Stmt{Cmd: decl})
}

// open opens files for redirections and sourced scripts.
func (s *shell) open(ctx context.Context, name string, flag int, perm os.FileMode) (io.ReadWriteCloser, error) {
	if !path.IsAbs(name) {
		name = path.Join(interp.HandlerCtx(ctx).Dir, name)
	}
	if content, ok := s.virtual[name]; ok && flag == os.O_RDONLY {
		return inMemory{bytes.NewReader(content)}, nil
	}
	return os.OpenFile(s.root+name, flag, perm)
}

// inMemory is a file that has been read already.
type inMemory struct{ *bytes.Reader }

func (inMemory) Write([]byte) (int, error) { return 0, fs.ErrPermission }
func (inMemory) Close() error              { return nil }

func (s *shell) stat(_ context.Context, name string, follow bool) (fs.FileInfo, error) {
	if follow {
		return os.Stat(s.root + name)
	}
	return os.Lstat(s.root + name)
}

// lookPath finds a program. A name with a slash is relative to dir.
func (s *shell) lookPath(dir, searchPath, name string) (string, error) {
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(dir, name)
		}
		if err := s.executable(name); err != nil {
			return "", &fs.PathError{Op: "exec", Path: name, Err: err}
		}
		return name, nil
	}
	for elem := range strings.SplitSeq(searchPath, ":") {
		file := path.Join(elem, name)
		if !path.IsAbs(elem) {
			file = path.Join(dir, elem, name)
		}
		if s.executable(file) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%q: executable file not found in $PATH", name)
}

// executable tells why a file cannot be executed. Only the bits are looked at,
// not whose they are: execve knows better, and its error is clearer.
func (s *shell) executable(name string) error {
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Stat(s.root+name, &st) })
	switch {
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case st.Mode&0o111 == 0:
		return unix.EACCES
	}
	return nil
}

// environment is what an interpreter starts with.
type environment map[string]expand.Variable

var _ expand.Environ = environment{}

// Get returns a variable.
func (e environment) Get(name string) expand.Variable { return e[name] }

// Each visits all variables.
func (e environment) Each(visit func(string, expand.Variable) bool) {
	for name, v := range e {
		if !visit(name, v) {
			return
		}
	}
}

func (e environment) set(name, value string, exported, readOnly bool) {
	e[name] = expand.Variable{Set: true, Kind: expand.String, Str: value, Exported: exported, ReadOnly: readOnly}
}

// ExitError is a script's wish to end with a status instead of executing a
// program; the status may be 0.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// ExitCode is the status to end with.
func (e *ExitError) ExitCode() int { return e.Code }

// evaluateFile returns the variables that an --env-file sets. It is a shell
// script that can use the host's variables, but run no program and open no file.
func evaluateFile(f EnvFile, args, hostEnv []string, limit time.Duration) (vars variables, err error) {
	start := environment{}
	for _, e := range hostEnv {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" {
			start.set(name, value, false, false)
		}
	}
	runner, err := interp.New(
		interp.Env(start),
		func(r *interp.Runner) error { r.Dir = "/"; return nil },
		interp.Params(append([]string{"-a", "--"}, args...)...),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc {
			return func(_ context.Context, args []string) error {
				return fmt.Errorf("could not execute %q: execution is disabled", strings.Join(args, " "))
			}
		}),
		interp.OpenHandler(func(_ context.Context, name string, _ int, _ os.FileMode) (io.ReadWriteCloser, error) {
			return nil, fmt.Errorf("could not open/create/modify %q: file feature is disabled", name)
		}),
		interp.ReadDirHandler2(func(context.Context, string) ([]fs.DirEntry, error) { return nil, fs.ErrPermission }),
	)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err = guarded(func() error {
		file, err := syntax.NewParser().Parse(bytes.NewReader(f.Content), f.Name)
		if err != nil {
			return err
		}
		repair(file)
		return runner.Run(ctx, file)
	})
	var status interp.ExitStatus
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && !errors.As(err, &status):
		return nil, err
	}
	for _, e := range environ(exported(environment(runner.Vars))) {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "EUID", "GID", "HOME", "IFS", "OPTIND", "PWD", "UID", "OLDPWD":
		default:
			vars = append(vars, variable{name, value})
		}
	}
	return vars, nil
}
