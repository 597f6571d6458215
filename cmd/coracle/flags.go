package main

// actionFlags are the flags of run, exec, shell and test. The keys tag names
// the environment variables, without their prefix, that set a flag too.
type actionFlags struct {
	globals

	Bind          []string `short:"B" sep:"none" placeholder:"SRC[:DST[:OPTS]]" help:"Bind a path of the host; options ro, rw; a comma separates several."`
	Mount         []string `sep:"none" placeholder:"type=bind,…" help:"The same in comma-separated key=value form."`
	Home          string   `short:"H" keys:"HOME" placeholder:"SRC[:DST]" help:"Home directory, and where it appears."`
	NoHome        bool     `keys:"NO_HOME" help:"Do not mount the home directory."`
	NoMount       []string `keys:"NO_MOUNT" placeholder:"NAME" help:"Skip default mounts: proc, sys, dev, devpts, home, tmp, cwd, bind-paths or a path."`
	Contain       bool     `short:"c" keys:"CONTAIN" help:"Minimal /dev, empty /tmp and home, no working directory."`
	ContainAll    bool     `name:"containall" short:"C" keys:"CONTAINALL" help:"--contain with own PID and IPC namespaces and a clean environment."`
	App           string   `keys:"APP,APPNAME" placeholder:"NAME" help:"Run an application of the image (SCIF)."`
	NoCompat      bool     `keys:"NO_COMPAT" hidden:"" help:"Belongs to OCI mode."`
	Compat        bool     `keys:"COMPAT" help:"As Docker: --containall --no-init --no-umask --no-eval --writable-tmpfs."`
	Workdir       string   `short:"W" keys:"WORKDIR" placeholder:"DIR" help:"With --contain: holds tmp, var_tmp, home and scratch directories."`
	Scratch       []string `short:"S" keys:"SCRATCH,SCRATCHDIR" placeholder:"DIR" help:"An empty directory inside, gone at the end."`
	Writable      bool     `short:"w" keys:"WRITABLE" help:"Write into a sandbox directory itself."`
	WritableTmpfs bool     `keys:"WRITABLE_TMPFS" help:"Writes go to memory and are gone at the end."`

	CleanEnv bool     `name:"cleanenv" short:"e" keys:"CLEANENV" help:"Start without the host's environment."`
	Env      []string `sep:"none" placeholder:"NAME=VALUE" help:"Set variables; a comma separates several."`
	EnvFile  []string `keys:"ENV_FILE" placeholder:"FILE" help:"Set the variables that a shell file sets."`
	NoEval   bool     `keys:"NO_EVAL" help:"Do not let a shell evaluate arguments and variables."`

	Fakeroot    bool   `short:"f" keys:"FAKEROOT" help:"Be root inside, with sub-ids where the host grants them."`
	Userns      bool   `short:"u" keys:"USERNS,UNSHARE_USERNS" help:"Accepted: there is always a user namespace."`
	PID         bool   `short:"p" keys:"PID,UNSHARE_PID" help:"Own PID namespace."`
	NoPID       bool   `keys:"NO_PID" help:"No PID namespace, against --containall."`
	NoInit      bool   `keys:"NO_INIT,NOSHIMINIT" help:"With --pid: the program itself is PID 1."`
	IPC         bool   `short:"i" keys:"IPC,UNSHARE_IPC" help:"Own IPC namespace."`
	UTS         bool   `keys:"UTS,UNSHARE_UTS" help:"Own UTS namespace."`
	Hostname    string `keys:"HOSTNAME" placeholder:"NAME" help:"Host name inside; implies --uts."`
	Net         bool   `short:"n" keys:"NET,UNSHARE_NET" help:"Own network namespace; needs --network none."`
	Network     string `keys:"NETWORK" placeholder:"NAME" help:"Kind of the network: none."`
	DNS         string `name:"dns" keys:"DNS" placeholder:"ADDRESS,…" help:"Name servers inside."`
	Cwd         string `aliases:"pwd" keys:"CWD,TARGET_CWD,PWD" placeholder:"DIR" help:"Working directory inside."`
	NoUmask     bool   `keys:"NO_UMASK" help:"Start with umask 0022."`
	KeepPrivs   bool   `keys:"KEEP_PRIVS" help:"Keep all capabilities of the user namespace."`
	NoPrivs     bool   `keys:"NO_PRIVS" help:"Keep no capabilities."`
	AllowSetuid bool   `keys:"ALLOW_SETUID" help:"Let setuid programs of the image gain their rights, inside the namespace."`
	AddCaps     string `keys:"ADD_CAPS" placeholder:"CAP,…" help:"Capabilities to add."`
	DropCaps    string `keys:"DROP_CAPS" placeholder:"CAP,…" help:"Capabilities to drop."`

	TmpSandbox   bool   `keys:"TMP_SANDBOX" help:"Unpack the image instead of mounting it over FUSE."`
	NoTmpSandbox bool   `keys:"NO_TMP_SANDBOX" help:"Never unpack the image."`
	DisableCache bool   `keys:"DISABLE_CACHE" help:"Neither read nor write the cache."`
	NoHTTPS      bool   `name:"no-https" aliases:"nohttps" keys:"NO_HTTPS,NOHTTPS" help:"Talk plain HTTP to the registry."`
	Tmpdir       string `keys:"TMPDIR,LOCALCACHEDIR" hidden:"" help:"Directory for temporary files."`

	Words []string `arg:"" name:"image" passthrough:"partial" help:"Image, then the command or arguments; flags end at the image."`

	shell string // of shell --shell
}
