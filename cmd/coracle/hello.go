package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

const boat = `
            |\
            | \        Hello from inside a container.
         ___|__\___
      ~~~\________/~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
`

// runHello is the program of the image builtin://hello: it tells where it runs,
// as the kernel sees it.
// Runs in: the container, as its payload.
func runHello() int {
	fmt.Print(boat, "\n")
	line := func(name, format string, args ...any) { fmt.Printf("  %-12s %s\n", name, fmt.Sprintf(format, args...)) }
	executable, _ := os.Executable()
	hostname, _ := os.Hostname()
	line("program", "%s, process %d on %s", executable, os.Getpid(), hostname)
	line("ids", "uid %d, gid %d", os.Getuid(), os.Getgid())
	line("uid map", "%s", oneLine("/proc/self/uid_map"))
	if ns, err := os.Readlink("/proc/self/ns/user"); err == nil {
		line("namespaces", "%s, %s", ns, linkTo("/proc/self/ns/mnt"))
	}
	kind, options := rootMount()
	line("root", "%s (%s)", kind, options)
	entries, err := os.ReadDir("/")
	if err == nil {
		names := make([]string, 0, len(entries))
		for _, e := range entries {
			names = append(names, e.Name())
		}
		line("files", "%s", strings.Join(names, " "))
	}
	line("from image", "%s", os.Getenv("SINGULARITY_CONTAINER"))
	fmt.Println()
	return 0
}

func linkTo(path string) string {
	target, _ := os.Readlink(path)
	return target
}

// oneLine returns a small file's lines joined by commas, blanks collapsed.
func oneLine(path string) string {
	content, _ := os.ReadFile(path)
	var lines []string
	for l := range strings.Lines(string(content)) {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(lines, ", ")
}

// rootMount returns the file system type and options of the mount at "/", from
// proc_pid_mountinfo(5).
func rootMount() (kind, options string) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "unknown", err.Error()
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		mount, super, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(mount)
		if ok && len(fields) > 5 && fields[4] == "/" {
			kind, _, _ = strings.Cut(super, " ")
			options = fields[5]
		}
	}
	return kind, options
}
