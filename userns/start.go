package userns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/coracle-runtime/coracle/userns/nofile"
	"golang.org/x/sys/unix"
)

// Process is a program to be started in other namespaces.
//
// How it is started: the caller's memory is shared until execve (vfork), so
// that nothing of it is copied, and the child writes its own single-id map. A
// map of the methods Direct and Helper is written by the caller while the child
// waits; that child gets a copy of the memory.
type Process struct {
	Exe  string   // path of the program, resolved in the namespaces it is started in
	File *os.File // when set, executed in place of Exe: a program that no path leads to there (not a script)
	Args []string // with the name, argv[0]
	Env  []string // exactly these
	Dir  string   // "" keeps the caller's; resolved after Join

	// Files become the descriptors 0, 1, 2, … of the program; nil ones are
	// closed. Missing ones up to 2 are closed too.
	Files []*os.File

	Flags uintptr    // CLONE_NEWUSER, CLONE_NEWNS, …: what is created
	Map   *Map       // of the new user namespace; nil leaves it without ids
	Join  []*os.File // namespaces to enter, in this order (user namespace first); not together with Map

	IDs     *IDs // real, effective and saved ids to take, as seen inside; nil keeps those of the caller
	Ambient bool // all capabilities held in the namespace survive execve; else only uid 0 has any there
	Setsid  bool // lead a new session

	// ParentDeath is sent to the program when the *thread* that called Start
	// ends, which the Go runtime may do at any time: a caller who uses it calls
	// runtime.LockOSThread and keeps that goroutine until the program ended.
	ParentDeath syscall.Signal
}

// IDs are a user and a group, as seen inside.
type IDs struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// Start starts the program and returns once it is being executed. The error is
// a *StartError for what the kernel refused, a *HelperError for newuidmap and
// newgidmap.
func (p *Process) Start() (*os.Process, error) {
	pid, err := p.StartPID()
	if err != nil {
		return nil, err
	}
	return os.FindProcess(pid) // by pidfd; exact, since nobody else waits for it
}

// StartPID is Start for callers who wait by wait4(2): package os would first
// start a process to see whether pidfds work (0.1 ms).
func (p *Process) StartPID() (pid int, err error) {
	c, err := p.prepare()
	if err != nil {
		return 0, err
	}
	defer runtime.KeepAlive(p)
	if p.ParentDeath != 0 && c.parent == 0 {
		if c.parentHandle, err = pidfdSelf(); err != nil {
			return 0, err
		}
		defer unix.Close(int(c.parentHandle))
	}
	if p.Map != nil && p.Map.Method != Single || !sharesMemory {
		return p.startCopied(c)
	}
	return p.startShared(c)
}

// pidfdSelf is -1 on kernels before 5.3.
func pidfdSelf() (int32, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == unix.ENOSYS || err == unix.EPERM {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open own pidfd: %w", err)
	}
	return int32(fd), nil
}

// prepare turns p into what the child can use without allocating.
func (p *Process) prepare() (*child, error) {
	c := &child{exeFile: -1, mapped: -1, mapClose: -1, errPipe: -1, parentHandle: -1,
		ambient: p.Ambient, setsid: p.Setsid, parentDeath: uintptr(p.ParentDeath)}
	if err := p.prepareStrings(c); err != nil {
		return nil, err
	}
	if p.File != nil {
		c.exeFile = int32(p.File.Fd())
	}
	for _, f := range p.Files {
		fd := int32(-1)
		if f != nil {
			fd = int32(f.Fd())
		}
		c.files = append(c.files, fd)
	}
	for _, f := range p.Join {
		fd := int32(f.Fd())
		kind, err := unix.IoctlRetInt(int(fd), unix.NS_GET_NSTYPE)
		if err != nil {
			return nil, fmt.Errorf("join namespace %s: %w", f.Name(), err)
		}
		c.join = append(c.join, fd)
		c.forkAgain = c.forkAgain || kind == unix.CLONE_NEWPID
	}
	if p.Map != nil && p.Join != nil {
		return nil, errors.New("start process: a map is for a new user namespace, not for one that is joined")
	}
	if c.forkAgain && !sharesMemory {
		return nil, fmt.Errorf("join PID namespace: not supported on %s", runtime.GOARCH)
	}
	if p.IDs != nil {
		c.setIDs, c.uid, c.gid = true, p.IDs.UID, p.IDs.GID
	}
	if p.Map != nil && p.Map.Method == Single {
		c.uidMap, c.gidMap, c.setgroups = formatMap(p.Map.UID), formatMap(p.Map.GID), []byte("deny")
	}
	if p.Flags&unix.CLONE_NEWPID == 0 && !c.forkAgain {
		c.parent = uintptr(os.Getpid())
	}
	c.capHdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	if l := nofile.Start(); l.Max != 0 {
		c.nofile = nofileFor(l)
	}
	return c, nil
}

// nofileFor leaves a limit alone that somebody set on purpose after the start:
// the Go runtime's own choice is Max-1 (syscall/rlimit.go).
func nofileFor(start nofile.Limit) unix.Rlimit {
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &now) == nil && now.Cur == start.Max-1 && now.Max == start.Max {
		return unix.Rlimit{Cur: start.Cur, Max: start.Max}
	}
	return unix.Rlimit{}
}

func (p *Process) prepareStrings(c *child) (err error) {
	if len(p.Args) == 0 {
		return errors.New("start process: no arguments")
	}
	if c.argv, err = syscall.SlicePtrFromStrings(p.Args); err != nil {
		return fmt.Errorf("start process: argument: %w", err)
	}
	if c.env, err = syscall.SlicePtrFromStrings(p.Env); err != nil {
		return fmt.Errorf("start process: environment: %w", err)
	}
	for _, s := range []struct {
		to   **byte
		from string
		skip bool
	}{
		{&c.exe, p.Exe, p.File != nil},
		{&c.dir, p.Dir, p.Dir == ""},
		{&c.empty, "", false},
		{&c.setgroupsPath, "/proc/self/setgroups", false},
		{&c.uidMapPath, "/proc/self/uid_map", false},
		{&c.gidMapPath, "/proc/self/gid_map", false},
	} {
		if s.skip {
			continue
		}
		if *s.to, err = syscall.BytePtrFromString(s.from); err != nil {
			return fmt.Errorf("start process: path %q: %w", s.from, err)
		}
	}
	return nil
}

// startShared shares the memory with the child: when fork returns, the child
// has executed the program or is dead and has left its report.
func (p *Process) startShared(c *child) (int, error) {
	// The lock keeps descriptors that other goroutines are just opening, not
	// yet close-on-exec, out of the child.
	syscall.ForkLock.Lock()
	pid, errno := c.fork(p.Flags | syscall.CLONE_VM | syscall.CLONE_VFORK | uintptr(syscall.SIGCHLD))
	runtimeAfterFork()
	syscall.ForkLock.Unlock()
	if errno != 0 {
		return 0, &StartError{Step: StepClone, Err: syscall.Errno(errno)}
	}
	if c.forkAgain {
		reap(int(pid))
		pid = c.pid
	}
	switch {
	case c.report.step != 0:
		if pid != 0 {
			reap(int(pid))
		}
		return 0, c.report.error()
	case pid == 0:
		return 0, errors.New("start process: killed before it was in its PID namespace")
	}
	return int(pid), nil
}

// startCopied gives the child a copy of the memory, and writes the maps while it
// waits.
//
//	parent                      child
//	clone ─────────────────────▶ waits on mapped
//	writes setgroups and maps
//	one byte ──────────────────▶ goes on
//	waits on report ◀─────────── failed step, or nothing (closed by execve)
func (p *Process) startCopied(c *child) (int, error) {
	mapRead, mapWrite, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start process: %w", err)
	}
	defer mapRead.Close()
	defer mapWrite.Close()
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start process: %w", err)
	}
	defer errRead.Close()
	defer errWrite.Close()
	c.mapped, c.mapClose, c.errPipe = int32(mapRead.Fd()), int32(mapWrite.Fd()), int32(errWrite.Fd())

	syscall.ForkLock.Lock()
	pid, errno := c.fork(p.Flags | uintptr(syscall.SIGCHLD))
	runtimeAfterFork()
	syscall.ForkLock.Unlock()
	if errno != 0 {
		return 0, &StartError{Step: StepClone, Err: syscall.Errno(errno)}
	}
	errWrite.Close()
	if p.Map != nil && p.Map.Method != Single {
		err = p.Map.install(int(pid))
	}
	if err == nil {
		_, err = mapWrite.Write([]byte{1})
	}
	mapWrite.Close() // without the byte the child gives up
	var r report
	answer := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	if _, errRead := io.ReadFull(errRead, answer); err == nil && errRead == nil {
		err = r.error()
	}
	if err != nil {
		reap(int(pid))
		return 0, err
	}
	return int(pid), nil
}

func reap(pid int) {
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

// Step names what the start of a process was doing when the kernel refused.
type Step string

// The steps, in the order in which they are done.
const (
	StepClone       Step = "create namespaces"
	StepAwaitMaps   Step = "wait for id maps"
	StepJoin        Step = "join namespace"
	StepFork        Step = "fork in PID namespace"
	StepSetgroups   Step = "write /proc/self/setgroups"
	StepUIDMap      Step = "write uid_map"
	StepGIDMap      Step = "write gid_map"
	StepSession     Step = "start session"
	StepIDs         Step = "set user and group"
	StepCaps        Step = "raise ambient capabilities"
	StepParentDeath Step = "set parent death signal"
	StepDir         Step = "change directory"
	StepFiles       Step = "place descriptors"
	StepExec        Step = "execute program"
)

// The child reports steps as numbers.
const (
	stepNone uintptr = iota
	stepAwaitMaps
	stepJoin
	stepFork
	stepSetgroups
	stepUIDMap
	stepGIDMap
	stepSession
	stepIDs
	stepCaps
	stepParentDeath
	stepDir
	stepFiles
	stepExec
	stepCount
)

func (r report) error() error {
	names := [stepCount]Step{"", StepAwaitMaps, StepJoin, StepFork, StepSetgroups, StepUIDMap, StepGIDMap,
		StepSession, StepIDs, StepCaps, StepParentDeath, StepDir, StepFiles, StepExec}
	if uintptr(r.step) == stepNone || uintptr(r.step) >= stepCount {
		return fmt.Errorf("start process: child reported step %d", r.step)
	}
	return &StartError{Step: names[r.step], Err: syscall.Errno(r.errno)}
}

// StartError is a refusal of the kernel. Step and Err together tell the cause,
// which Diagnose puts into words.
type StartError struct {
	Step Step
	Err  syscall.Errno
}

func (e *StartError) Error() string {
	if e.Step == StepClone && e.Err == unix.ENOSPC { // "no space left on device" sends people to their disks
		return string(e.Step) + ": the limit on namespaces is reached"
	}
	return fmt.Sprintf("%s: %v", e.Step, e.Err)
}

func (e *StartError) Unwrap() error { return e.Err }
