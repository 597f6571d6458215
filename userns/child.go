package userns

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime pushes these three to other packages on purpose ("hall of shame",
// go.dev/issue/67401), so that the linker accepts them by default.

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// child is all that the new process needs between clone and execve. It is
// filled before the clone: the child may not allocate, take a lock, grow its
// stack or call anything that does. With CLONE_VM it lives in the memory of both
// processes, and the fields at the end are the child's answer.
//
// Every method below runs in the child and is nosplit (a stack check would
// abort: runtimeBeforeFork poisons the stack guard), norace and nocheckptr (the
// instrumentation calls into the runtime).
type child struct {
	argv, env []*byte
	exe       *byte // nil: execute exeFile
	exeFile   int32 // descriptor, or -1
	dir       *byte // nil: stay

	join         []int32 // namespace descriptors, in order
	forkAgain    bool    // a PID namespace was joined: only a child of ours is in it
	mapped       int32   // read end of a pipe that tells that the parent has written the maps, or -1
	mapClose     int32   // the child's copy of the write end, or -1
	uidMap       []byte  // written by the child itself; empty: not
	gidMap       []byte
	setgroups    []byte
	setIDs       bool
	uid, gid     uint32
	ambient      bool
	setsid       bool
	parentDeath  uintptr // a signal, or 0
	parent       uintptr // expected getppid, or 0 where the child cannot see it
	parentHandle int32   // pidfd of the parent, or -1
	files        []int32 // become 0, 1, 2, …; -1 closes
	nofile       unix.Rlimit

	setgroupsPath, uidMapPath, gidMapPath *byte
	empty                                 *byte // ""

	errPipe int32 // write end for report, or -1 with CLONE_VM

	caps   [2]unix.CapUserData
	capHdr unix.CapUserHeader
	poll   unix.PollFd
	now    unix.Timespec // zero
	one    [1]byte

	report report
	pid    uintptr // of the second child, with forkAgain
}

// report is the child's answer: the step that failed, or 0.
type report struct {
	step  uint32 // index into steps
	errno uint32
}

// fork clones the child and returns in the parent only. The child never leaves
// this frame, the parent does so at once: with CLONE_VM both use the same stack,
// and what the child writes lies below the frames that the parent returns to
// (the rule of syscall.forkAndExecInChild1).
//
// The steps are called from here, one level deep, because nosplit functions have
// 792 bytes of stack between them, and a build without optimisation uses it up.
//
//go:noinline
//go:norace
//go:nocheckptr
func (c *child) fork(flags uintptr) (pid, errno uintptr) {
	runtimeBeforeFork()
	if pid, errno = rawClone(flags); pid != 0 || errno != 0 {
		return
	}
	runtimeAfterForkInChild()
	c.awaitMaps()
	c.joinNamespaces()
	if c.forkAgain {
		// CLONE_PARENT makes the second child a child of our caller, who thus
		// can wait for it and is the one whose death is signalled. The first one
		// goes on here when the second has executed its program or is dead; all
		// it uses of this frame is c, which nobody changes.
		pid, errno = rawClone(syscall.CLONE_VM | syscall.CLONE_VFORK | syscall.CLONE_PARENT | uintptr(syscall.SIGCHLD))
		if errno != 0 {
			c.fail(stepFork, errno)
		}
		if pid != 0 {
			c.pid = pid
			exit(0)
		}
	}
	c.writeMaps()
	c.startSession()
	c.changeIDs()
	c.raiseCaps()
	c.tieToParent()
	c.changeDir()
	c.placeFiles()
	c.restoreLimit()
	c.exec()
	return // never reached
}

// awaitMaps waits until the parent has written the maps. The end of the pipe
// without a byte means that the parent gave up or died.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) awaitMaps() {
	if c.mapped < 0 {
		return
	}
	syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(c.mapClose), 0, 0)
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(c.mapped), uintptr(unsafe.Pointer(&c.one)), 1)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 || n != 1 {
			c.fail(stepAwaitMaps, uintptr(e))
		}
		return
	}
}

//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) joinNamespaces() {
	for i := range c.join {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(c.join[i]), 0, 0); e != 0 {
			c.fail(stepJoin, uintptr(e))
		}
	}
}

// writeMaps maps the ids of a new user namespace from inside: one id each needs
// no privilege, once setgroups is denied (user_namespaces(7)).
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) writeMaps() {
	if len(c.uidMap) == 0 {
		return
	}
	c.writeFile(c.setgroupsPath, c.setgroups, stepSetgroups)
	c.writeFile(c.uidMapPath, c.uidMap, stepUIDMap)
	c.writeFile(c.gidMapPath, c.gidMap, stepGIDMap)
}

//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) writeFile(path *byte, content []byte, step uintptr) {
	at := unix.AT_FDCWD
	fd, _, e := syscall.RawSyscall6(syscall.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(path)), syscall.O_WRONLY|syscall.O_CLOEXEC, 0, 0, 0)
	if e != 0 {
		c.fail(step, uintptr(e))
	}
	if _, _, e = syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(content))), uintptr(len(content))); e != 0 {
		c.fail(step, uintptr(e))
	}
	syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
}

//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) startSession() {
	if !c.setsid {
		return
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0); e != 0 {
		c.fail(stepSession, uintptr(e))
	}
}

// changeIDs takes ids of the namespace. The supplementary groups are kept: they
// give access to files, and a single-id map may not change them anyway.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) changeIDs() {
	if !c.setIDs {
		return
	}
	if c.ambient { // else a change from 0 to another uid clears the capabilities
		if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, syscall.PR_SET_KEEPCAPS, 1, 0, 0, 0, 0); e != 0 {
			c.fail(stepIDs, uintptr(e))
		}
	}
	g, u := uintptr(c.gid), uintptr(c.uid)
	if _, _, e := syscall.RawSyscall(sysSetresgid, g, g, g); e != 0 {
		c.fail(stepIDs, uintptr(e))
	}
	if _, _, e := syscall.RawSyscall(sysSetresuid, u, u, u); e != 0 {
		c.fail(stepIDs, uintptr(e))
	}
}

// raiseCaps lets every permitted capability survive execve. All of them: when
// ambient equals permitted the kernel does not treat the program as one that
// gained privileges (AT_SECURE), which would also clear the parent death signal.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) raiseCaps() {
	if !c.ambient {
		return
	}
	hdr, data := uintptr(unsafe.Pointer(&c.capHdr)), uintptr(unsafe.Pointer(&c.caps))
	if _, _, e := syscall.RawSyscall(syscall.SYS_CAPGET, hdr, data, 0); e != 0 {
		c.fail(stepCaps, uintptr(e))
	}
	for i := range c.caps {
		c.caps[i].Effective = c.caps[i].Permitted
		c.caps[i].Inheritable = c.caps[i].Permitted
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_CAPSET, hdr, data, 0); e != 0 {
		c.fail(stepCaps, uintptr(e))
	}
	for i := uintptr(0); i < 64; i++ {
		if c.caps[i>>5].Permitted&(1<<(i&31)) == 0 {
			continue
		}
		if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0, 0); e != 0 {
			c.fail(stepCaps, uintptr(e))
		}
	}
}

// tieToParent comes after changeIDs, which clears the signal, and closes the
// gap before it: a parent that is gone already sends nothing any more.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) tieToParent() {
	if c.parentDeath == 0 {
		return
	}
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, c.parentDeath, 0, 0, 0, 0); e != 0 {
		c.fail(stepParentDeath, uintptr(e))
	}
	if c.parent != 0 {
		if ppid, _, _ := syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0); ppid != c.parent {
			exit(exitFailed)
		}
	}
	if c.parentHandle >= 0 { // in a PID namespace getppid tells 0
		c.poll = unix.PollFd{Fd: c.parentHandle, Events: unix.POLLIN}
		n, _, _ := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&c.poll)), 1, uintptr(unsafe.Pointer(&c.now)), 0, 0, 0)
		if n == 1 {
			exit(exitFailed)
		}
	}
}

//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) changeDir() {
	if c.dir == nil {
		return
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_CHDIR, uintptr(unsafe.Pointer(c.dir)), 0, 0); e != 0 {
		c.fail(stepDir, uintptr(e))
	}
}

// placeFiles makes files the descriptors 0, 1, 2, …, inherited by the program.
// Everything that is in the way is moved above them first.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) placeFiles() {
	above := uintptr(len(c.files))
	if above < 3 {
		above = 3
	}
	c.errPipe = c.moveUp(c.errPipe, above)
	c.exeFile = c.moveUp(c.exeFile, above)
	for i := range c.files {
		if int(c.files[i]) != i {
			c.files[i] = c.moveUp(c.files[i], above)
		}
	}
	for i := range c.files {
		fd := c.files[i]
		var e syscall.Errno
		switch {
		case fd < 0:
			syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(i), 0, 0)
		case int(fd) == i: // dup3 refuses this, and the flag must go
			_, _, e = syscall.RawSyscall(sysFcntl, uintptr(fd), syscall.F_SETFD, 0)
		default:
			_, _, e = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(fd), uintptr(i), 0)
		}
		if e != 0 {
			c.fail(stepFiles, uintptr(e))
		}
	}
	for i := len(c.files); i < 3; i++ { // nothing of ours is inherited by accident
		syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(i), 0, 0)
	}
}

//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) moveUp(fd int32, above uintptr) int32 {
	if fd < 0 || uintptr(fd) >= above {
		return fd
	}
	n, _, e := syscall.RawSyscall(sysFcntl, uintptr(fd), syscall.F_DUPFD_CLOEXEC, above)
	if e != 0 {
		c.fail(stepFiles, uintptr(e))
	}
	return int32(n)
}

// restoreLimit undoes what the Go runtime did to RLIMIT_NOFILE. Its failure
// harms nobody.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) restoreLimit() {
	if c.nofile.Max != 0 {
		syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&c.nofile)), 0, 0, 0)
	}
}

//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) exec() {
	argv, env := uintptr(unsafe.Pointer(unsafe.SliceData(c.argv))), uintptr(unsafe.Pointer(unsafe.SliceData(c.env)))
	var e syscall.Errno
	if c.exe != nil {
		_, _, e = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(c.exe)), argv, env)
	} else {
		_, _, e = syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(c.exeFile), uintptr(unsafe.Pointer(c.empty)), argv, env, unix.AT_EMPTY_PATH, 0)
	}
	c.fail(stepExec, uintptr(e))
}

const exitFailed = 253 // as package syscall does; nobody sees it, Start waits

//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) fail(step, errno uintptr) {
	c.report.step, c.report.errno = uint32(step), uint32(errno)
	if c.errPipe >= 0 {
		syscall.RawSyscall6(syscall.SYS_WRITE, uintptr(c.errPipe), uintptr(unsafe.Pointer(&c.report)), unsafe.Sizeof(c.report), 0, 0, 0)
	}
	exit(exitFailed)
}

//go:nosplit
//go:norace
func exit(code uintptr) {
	for {
		syscall.RawSyscall6(syscall.SYS_EXIT, code, 0, 0, 0, 0, 0)
	}
}
