// Payload is what the executor's tests run inside containers. It is static and
// needs nothing of its image.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(99)
	}
	args := os.Args[2:]
	command, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprintln(os.Stderr, "payload: unknown command", os.Args[1])
		os.Exit(99)
	}
	command(args)
}

var commands = map[string]func(args []string){
	"look":       look,
	"exit":       func(args []string) { os.Exit(number(args[0])) },
	"die":        die,
	"cat":        cat,
	"write":      func(args []string) { check(os.WriteFile(args[0], []byte(args[1]), 0o644)) },
	"remove":     func(args []string) { check(os.Remove(args[0])) },
	"ls":         ls,
	"stat":       stat,
	"trap":       trap,
	"sleep":      sleep,
	"background": background,
	"later":      later,
	"orphans":    orphans,
	"stop":       stop,
	"chown":      func(args []string) { check(os.Lchown(args[0], number(args[1]), number(args[1]))); stat(args) },
	"userns":     userns,
	"tty":        tty,
	"close":      closeStdout,
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "payload:", err)
		os.Exit(1)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	check(err)
	return n
}

// look tells everything about the process as JSON.
func look([]string) {
	umask := syscall.Umask(0)
	syscall.Umask(umask)
	groups, _ := os.Getgroups()
	cwd, _ := os.Getwd()
	host, _ := os.Hostname()
	var limit syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	status := map[string]string{}
	b, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(b), "\n") {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	var descriptors []int
	for fd := range 256 {
		if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0); errno == 0 {
			link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
			if !strings.Contains(link, "cgroup") && !strings.Contains(link, "anon_inode") {
				descriptors = append(descriptors, fd)
			}
		}
	}
	lo, _ := os.ReadFile("/sys/class/net/lo/flags")
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"args": os.Args, "env": os.Environ(), "pid": os.Getpid(), "ppid": os.Getppid(),
		"uid": os.Getuid(), "gid": os.Getgid(), "groups": groups, "cwd": cwd, "umask": umask, "hostname": host,
		"nofile": limit.Cur, "status": status, "mounts": string(mounts), "descriptors": descriptors, "lo": string(lo),
		"pgrp": syscall.Getpgrp(),
	}))
}

func die(args []string) {
	s := syscall.Signal(number(args[0]))
	signal.Reset(s)
	syscall.Kill(os.Getpid(), s)
	time.Sleep(10 * time.Second)
}

func cat(args []string) {
	if len(args) == 0 {
		_, err := io.Copy(os.Stdout, os.Stdin)
		check(err)
	}
	for _, name := range args {
		b, err := os.ReadFile(name)
		check(err)
		os.Stdout.Write(b)
	}
}

func ls(args []string) {
	entries, err := os.ReadDir(args[0])
	check(err)
	for _, e := range entries {
		fmt.Println(e.Name())
	}
}

func stat(args []string) {
	var st syscall.Stat_t
	check(syscall.Lstat(args[0], &st))
	fmt.Printf("%o %d %d %d\n", st.Mode, st.Uid, st.Gid, st.Size)
}

// trap says "ready", names each signal it gets, and ends with 7 after TERM.
func trap([]string) {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	fmt.Println("ready")
	for s := range signals {
		fmt.Println(int(s.(syscall.Signal)))
		if s == syscall.SIGTERM {
			time.Sleep(100 * time.Millisecond) // a second one would be seen
			select {
			case s := <-signals:
				fmt.Println("again", s)
			default:
			}
			os.Exit(7)
		}
	}
}

func sleep(args []string) {
	fmt.Println("ready")
	time.Sleep(time.Duration(number(args[0])) * time.Millisecond)
}

// background starts `later` in a session of its own and ends.
func background(args []string) {
	cmd := exec.Command("/proc/self/exe", append([]string{"later"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	check(cmd.Start())
	fmt.Println("ready")
	if len(args) > 3 { // stay
		time.Sleep(time.Duration(number(args[3])) * time.Millisecond)
	}
}

// later MILLISECONDS FROM TO: reads a file after a while, and copies it.
func later(args []string) {
	time.Sleep(time.Duration(number(args[0])) * time.Millisecond)
	b, err := os.ReadFile(args[1])
	if err != nil {
		b = []byte(err.Error())
	}
	if args[2] == "" {
		return
	}
	check(os.WriteFile(args[2]+".part", b, 0o644))
	check(os.Rename(args[2]+".part", args[2]))
}

// orphans leaves n processes to PID 1 and tells whether they were reaped.
func orphans(args []string) {
	for range number(args[0]) {
		cmd := exec.Command("/proc/self/exe", "background", "1", "/proc/self/exe", "")
		check(cmd.Run())
	}
	time.Sleep(200 * time.Millisecond)
	zombies := 0
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		b, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err == nil && strings.Contains(string(b), ") Z ") {
			zombies++
		}
	}
	fmt.Println("zombies", zombies)
}

// stop stops itself as a shell's suspend does.
func stop(args []string) {
	fmt.Println("ready")
	runtime.LockOSThread() // another thread would take the signal, and this one run on
	syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(syscall.Gettid()), uintptr(syscall.SIGSTOP))
	fmt.Println("continued")
}

// tty echoes lines and says how often it was interrupted.
func tty([]string) {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, syscall.SIGINT)
	go func() {
		for range signals {
			fmt.Println("interrupted")
		}
	}()
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println("line", lines.Text())
		if lines.Text() == "end" {
			os.Exit(5)
		}
	}
}

// closeStdout goes on with its output closed.
func closeStdout([]string) {
	fmt.Println("ready")
	os.Stdout.Close()
	os.Stderr.Close()
	time.Sleep(time.Minute)
}

// userns makes a user namespace in the container.
func userns([]string) {
	cmd := exec.Command("/proc/self/exe", "exit", "0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	check(cmd.Run())
	fmt.Println("nested")
}
