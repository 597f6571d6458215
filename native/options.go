package native

import (
	"log/slog"

	"github.com/coracle-runtime/coracle/image"
	"github.com/coracle-runtime/coracle/oci"
)

// Kind is the action of a command, by its word on the command line.
type Kind string

const (
	Run   Kind = "run"   // the image's runscript
	Exec  Kind = "exec"  // a program by name
	Shell Kind = "shell" // an interactive shell
	Test  Kind = "test"  // the image's test script
)

// Command is what the user asks to run.
type Command struct {
	Kind Kind
	Args []string // exec: the program and its arguments; else arguments alone

	// Container is the image's name for the payload (SINGULARITY_CONTAINER).
	// Empty is the image's own path; it is given where the image has been
	// unpacked to a temporary directory.
	Container string
}

// Options are the flags of run, exec, shell and test, as the user gave them.
// Values are not parsed yet: --bind a,b is one element here. Settings from the
// environment (SINGULARITY_BIND and the like) are already merged in.
type Options struct {
	Bind    []string // src[:dst[:opts]][,…]
	Mount   []string // type=bind,source=…,destination=…[,ro]
	Home    string   // src[:dst]; empty is the user's own
	Workdir string
	Scratch []string // /dir[,…]
	NoHome  bool
	NoMount []string // proc, sys, dev, devpts, home, tmp, hostfs, cwd, bind-paths, /a/destination; comma separated too

	Contain       bool
	ContainAll    bool
	Compat        bool
	NoCompat      bool // only warns here: it belongs to OCI mode
	Writable      bool
	WritableTmpfs bool

	CleanEnv bool
	Env      []string  // K=V[,K2=V2]
	EnvFiles []EnvFile // later ones win
	NoEval   bool

	PID, NoPID, NoInit bool
	IPC, UTS, Net      bool
	Userns             bool // every container has one
	Hostname           string
	Network            string // "" is the default, "none" the only one without privilege
	DNS                string // addresses, comma separated

	Fakeroot    bool
	KeepPrivs   bool
	NoPrivs     bool
	AllowSetuid bool
	AddCaps     string // comma separated, with or without CAP_; "all"
	DropCaps    string

	NoUmask bool
	Cwd     string // --cwd and --pwd
	Shell   string // --shell
	App     string // --app
}

// EnvFile is a file of --env-file, read already.
type EnvFile struct {
	Name    string // for messages
	Content []byte
}

// Host is what a plan needs to know of the caller and the machine. Package cmd
// fills it in.
type Host struct {
	UID, GID int
	User     User
	Groups   []Group // the caller's primary and supplementary groups
	Env      []string
	Cwd      string // absolute; $PWD where that is the same directory
	Umask    int
	TTY      string     // path of the terminal on descriptor 0, 1 or 2; empty without one
	IDs      oci.IDs    // the map that the container will have
	Files    image.Root // the host's file system: HostFiles{} but in tests
}

// User is the caller's line in the user database, or what can be said without
// one. Home is the directory that is mounted by default.
type User struct {
	Name, Gecos, Home, Shell string
}

// Group is a group by id, and by name where the name is known.
type Group struct {
	GID  int
	Name string
}

// Warning is a line for the user. The level says which of -q and -v shows it.
type Warning struct {
	Level slog.Level
	Text  string
}
