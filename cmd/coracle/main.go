package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/alecthomas/kong"
)

// Exit statuses of our own; all others are the container's.
const (
	exitUsage = 1   // an unknown command, a wrong flag or argument
	exitFatal = 255 // everything else that we could not do
)

const exitHelp = `Exit status: the container's own. If a signal ended it, the same signal ends coracle (128+n as a shell
sees it). 255: coracle could not do what was asked. 1: wrong usage.
`

func main() {
	args := os.Args[1:]
	if len(args) > 1 && args[0] == "x" {
		os.Exit(runInternal(args[1], args[2:]))
	}
	a := &app{env: os.Environ(), stdout: os.Stdout, stderr: os.Stderr}
	a.color = colored(os.Stderr, a.env)
	a.log = newLogger(os.Stderr, slog.LevelInfo, a.color)
	os.Exit(a.exit(a.main(args)))
}

// app is what every command gets: the environment and where to print.
type app struct {
	env    environment
	stdout io.Writer
	stderr io.Writer
	color  bool
	quiet  bool
	log    *slog.Logger
}

// command is one word of the command line, with its flags as fields.
type command interface {
	Run(ctx context.Context, a *app) error
}

// usageError is a mistake on the command line.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// statusError is the end of a container that is not success.
type statusError struct {
	code   int
	signal syscall.Signal // 0, or what ended the payload
}

func (e *statusError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// exit prints err and turns it into an exit status. This is the only place
// that decides one.
func (a *app) exit(err error) int {
	var status *statusError
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		if status.signal != 0 {
			raise(status.signal)
			return 128 + int(status.signal)
		}
		return status.code
	case errors.As(err, &usage):
		fmt.Fprintf(a.stderr, "Error for command %q: %v\n\nRun '%s --help' for more detailed usage information.\n",
			usage.command, err, strings.TrimSpace("coracle "+usage.command))
		return exitUsage
	}
	printFatal(a.stderr, err, a.color)
	return exitFatal
}

// raise ends this process by sig, so that its parent sees the same end that
// the payload had. It returns where the signal does not end a process.
func raise(sig syscall.Signal) {
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	// The default action, past the runtime: package signal leaves the
	// runtime's own handlers of SIGQUIT, SIGSEGV and their like, which print
	// goroutines and exit with 2.
	var defaultAction [4]uint64
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&defaultAction)), 0, 8, 0, 0)
	syscall.Kill(syscall.Getpid(), sig)
	time.Sleep(time.Second) // another thread may have taken it
}

// main finds the command word, parses that command's flags and runs it.
func (a *app) main(args []string) error {
	front, word, rest := splitCommand(args)
	entry, err := a.find(front, word)
	if entry == nil {
		return err
	}
	cmd := entry.new()
	if v, ok := cmd.(*versionCmd); ok && len(front)+len(rest) == 0 {
		return v.Run(context.Background(), a) // asked often, by scripts: spared the flag parser
	}
	globals, err := a.parse(entry, cmd, append(front, rest...))
	if err != nil {
		return err
	}
	a.configure(globals)
	return cmd.Run(context.Background(), a)
}

// interruptible returns a context that a signal ends, for work that has to clean
// up after itself. A running container gets its signals itself.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	// A signal that was ignored before us stays so (nohup).
	signals := slices.DeleteFunc([]os.Signal{syscall.SIGTERM, syscall.SIGHUP, os.Interrupt}, signal.Ignored)
	return signal.NotifyContext(ctx, signals...)
}

// splitCommand separates the global flags in front of the command word, in
// their long form, from the word and what follows it.
func splitCommand(args []string) (front []string, word string, rest []string) {
	long := map[string]string{"-d": "--debug", "-q": "--quiet", "-s": "--silent", "-v": "--verbose", "-h": "--help"}
	for i, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			return front, arg, args[i+1:]
		}
		if l := long[arg]; l != "" {
			arg = l
		}
		front = append(front, arg)
	}
	return front, "", nil
}

// find returns the table's entry for word; where there is none it answers
// --version, --help and mistakes itself.
func (a *app) find(front []string, word string) (*entry, error) {
	for i := range commands {
		if commands[i].name == word {
			return &commands[i], nil
		}
	}
	switch {
	case word == "" && len(front) > 0 && front[len(front)-1] == "--version":
		fmt.Fprintf(a.stdout, "coracle version %s\n", version())
		return nil, nil
	case word == "help", word == "" && (len(front) == 0 || front[len(front)-1] == "--help"):
		a.printHelp()
		return nil, nil
	case word == "":
		return nil, &usageError{"", fmt.Errorf("no command after %s", strings.Join(front, " "))}
	}
	return nil, &usageError{"", fmt.Errorf("unknown command %q for \"coracle\"", word)}
}

// globals are the flags of every command.
type globals struct {
	Debug   bool `short:"d" help:"Print debugging information."`
	Quiet   bool `short:"q" help:"Print no information, only warnings and errors."`
	Silent  bool `help:"Print errors only."`
	Verbose bool `short:"v" help:"Print additional information."`
	NoColor bool `name:"nocolor" help:"Print without colours."`
}

func (g *globals) get() *globals { return g }

// longGlobals are the same for a command that has other uses for the letters.
type longGlobals struct {
	Debug   bool `help:"Print debugging information."`
	Quiet   bool `help:"Print no information, only warnings and errors."`
	Silent  bool `help:"Print errors only."`
	Verbose bool `help:"Print additional information."`
	NoColor bool `name:"nocolor" help:"Print without colours."`
}

func (g *longGlobals) get() *globals { return (*globals)(g) }

// configure applies the global flags to the logger.
func (a *app) configure(g *globals) {
	level := slog.LevelInfo
	_, debugging := a.env.setting("DEBUG")
	switch {
	case g.Debug || debugging:
		level = slog.LevelDebug
	case g.Verbose:
		level = levelVerbose
	case g.Silent:
		level = levelSilent
	case g.Quiet:
		level = slog.LevelWarn
	}
	a.color = a.color && !g.NoColor
	a.quiet = level > slog.LevelInfo
	a.log = newLogger(a.stderr, level, a.color)
}

// parse fills cmd from args, and from the environment where a flag has keys.
func (a *app) parse(e *entry, cmd command, args []string) (*globals, error) {
	parser, err := kong.New(cmd,
		kong.Name("coracle "+e.name), kong.Description(e.help+"\n\n"+exitHelp),
		kong.Writers(a.stdout, a.stderr), kong.Exit(os.Exit),
		kong.Resolvers(kong.ResolverFunc(a.resolveFlag)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}))
	if err != nil {
		return nil, fmt.Errorf("command %s: %w", e.name, err)
	}
	if _, err := parser.Parse(args); err != nil {
		return nil, &usageError{e.name, err}
	}
	return cmd.(interface{ get() *globals }).get(), nil
}

// resolveFlag looks a flag up in the environment by the names in its keys tag.
func (a *app) resolveFlag(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	keys := flag.Tag.Get("keys")
	if keys == "" {
		return nil, nil
	}
	value, ok := a.env.setting(strings.Split(keys, ",")...)
	if !ok || value == "" {
		return nil, nil
	}
	return value, nil
}
