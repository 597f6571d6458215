package oci

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// execute becomes the payload, or forks it and stays as PID 1.
//
// Runs in: x init, inside the container's root, as the payload's user.
func (in *initProcess) execute() error {
	p := &in.plan.Process
	if len(p.Args) == 0 || p.Args[0] == "" {
		return &ExecError{Reason: "no command to execute", Errno: unix.ENOENT}
	}
	file, err := lookPath(p.Args[0], p.Env)
	if err != nil {
		return err
	}
	in.mark("lookup")
	in.note("%s; executes %s", in.timings(), file)
	run := in.become
	if in.nullFD >= 0 {
		run = in.stay
	}
	err = run(file, p.Args)
	if err == unix.ENOEXEC {
		if err := wrongArch(file); err != nil {
			return err
		}
		err = run("/bin/sh", append([]string{"/bin/sh", file}, p.Args[1:]...))
	}
	return execError(file, err)
}

// become replaces x init; the report socket closes by itself then.
func (in *initProcess) become(file string, args []string) error {
	return syscall.Exec(file, args, in.plan.Process.Env)
}

// lookPath finds the program as execvp would, by the payload's own PATH. It
// does not try: a failed execve from a PID 1 costs a process each.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var denied bool
	for _, dir := range strings.Split(pathVariable(env), ":") {
		if dir == "" {
			dir = "."
		}
		file := path.Join(dir, name)
		if !strings.Contains(file, "/") {
			file = "./" + file
		}
		var st unix.Stat_t
		if unix.Stat(file, &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		if st.Mode&0o111 != 0 {
			return file, nil
		}
		denied = true
	}
	if denied {
		return "", &ExecError{Name: name, Reason: "permission denied", Errno: unix.EACCES}
	}
	return "", &ExecError{Name: name, Reason: fmt.Sprintf("%q: executable file not found in $PATH", name), Errno: unix.ENOENT}
}

// pathVariable takes the last PATH, as programs do that sort their environment
// into a map. Without one, execvp's own default is used.
func pathVariable(env []string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], "PATH="); ok {
			return v
		}
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// execError puts the kernel's answer into the words that users of SingularityCE
// know.
func execError(file string, err error) error {
	errno, ok := err.(syscall.Errno)
	if !ok {
		return err
	}
	e := &ExecError{Name: file, Errno: errno}
	switch {
	case errno == unix.EACCES:
		e.Reason = "permission denied"
	case errno == unix.ENOENT && exists(file):
		e.Reason = "exec " + file + " failed: a shared library is likely missing in the image"
	case errno == unix.ENOENT:
		e.Reason = "stat " + file + ": no such file or directory"
	default:
		e.Reason = "exec " + file + " failed: " + errno.Error()
	}
	return e
}

func exists(file string) bool {
	var st unix.Stat_t
	return unix.Stat(file, &st) == nil
}

// wrongArch tells a program for another processor from a script without "#!".
func wrongArch(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	head := make([]byte, 20)
	if _, err := io.ReadFull(f, head); err != nil || string(head[:4]) != elf.ELFMAG {
		return nil
	}
	machine := elf.Machine(uint16(head[18]) | uint16(head[19])<<8)
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		machine = elf.Machine(uint16(head[19]) | uint16(head[18])<<8)
	}
	arch, known := goarch(machine)
	if known && arch == runtime.GOARCH {
		return &ExecError{Name: file, Reason: "exec " + file + " failed: exec format error", Errno: unix.ENOEXEC}
	}
	return &ExecError{Name: file, Errno: unix.ENOEXEC,
		Reason: fmt.Sprintf("image targets '%s', cannot run on '%s'", arch, runtime.GOARCH)}
}

func goarch(machine elf.Machine) (name string, known bool) {
	switch machine {
	case elf.EM_X86_64:
		return "amd64", true
	case elf.EM_386:
		return "386", true
	case elf.EM_AARCH64:
		return "arm64", true
	case elf.EM_ARM:
		return "arm", true
	case elf.EM_PPC64:
		return "ppc64le", true
	case elf.EM_S390:
		return "s390x", true
	case elf.EM_RISCV:
		return "riscv64", true
	case elf.EM_LOONGARCH:
		return "loong64", true
	case elf.EM_MIPS:
		return "mips", true
	}
	return machine.String(), false
}
