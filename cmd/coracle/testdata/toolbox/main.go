// Command toolbox is the whole userland of the test image: the few programs
// that the scripts call, chosen by the first argument or by the name.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	args := os.Args
	if filepath.Base(args[0]) == "toolbox" && len(args) > 1 {
		args = args[1:]
	}
	if err := run(filepath.Base(args[0]), args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name string, args []string) error {
	switch name {
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "args":
		fmt.Printf("%q\n", args)
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "pwd":
		dir, err := os.Getwd()
		fmt.Println(dir)
		return err
	case "id":
		groups, _ := os.Getgroups()
		fmt.Printf("uid=%d gid=%d groups=%v pid=%d\n", os.Getuid(), os.Getgid(), groups, os.Getpid())
	case "cat":
		return cat(args)
	case "write":
		return os.WriteFile(args[0], []byte(strings.Join(args[1:], " ")+"\n"), 0o644)
	case "rm":
		return os.Remove(args[0])
	case "ls":
		entries, err := os.ReadDir(args[0])
		for _, e := range entries {
			fmt.Println(e.Name())
		}
		return err
	case "stat":
		return stat(args[0])
	case "exit":
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "die":
		signal, _ := strconv.Atoi(args[0])
		syscall.Kill(os.Getpid(), syscall.Signal(signal))
		time.Sleep(time.Second)
	case "sleep":
		d, err := time.ParseDuration(args[0])
		time.Sleep(d)
		return err
	case "hostname":
		name, err := os.Hostname()
		fmt.Println(name)
		return err
	case "ready": // prints, then ends with the number of the signal that comes
		c := make(chan os.Signal, 1)
		signal.Notify(c)
		fmt.Println("ready")
		for s := range c {
			if s != syscall.SIGURG && s != syscall.SIGCHLD {
				fmt.Println("got", int(s.(syscall.Signal)))
				return nil
			}
		}
	case "background": // leaves a process that reads a file of the image later
		cmd := exec.Command("/bin/toolbox", append([]string{"later"}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd.Start()
	case "later": // OUT IN: waits until OUT.go exists, then copies IN to OUT
		for {
			if _, err := os.Stat(args[0] + ".go"); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		content, err := os.ReadFile(args[1])
		if err != nil {
			content = []byte(err.Error())
		}
		return os.WriteFile(args[0], content, 0o644)
	default:
		return fmt.Errorf("toolbox: no program %q", name)
	}
	return nil
}

func cat(args []string) error {
	if len(args) == 0 {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	}
	for _, a := range args {
		content, err := os.ReadFile(a)
		if err != nil {
			return err
		}
		os.Stdout.Write(content)
	}
	return nil
}

func stat(path string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	sys := st.Sys().(*syscall.Stat_t)
	fmt.Printf("%v uid=%d gid=%d size=%d nlink=%d\n", st.Mode(), sys.Uid, sys.Gid, sys.Size, sys.Nlink)
	return nil
}
