// Command bench measures Coracle against its peers on this machine, in one run,
// and prints a table of ratios: the machine's own speed cancels out.
//
// It wants mmdebstrap, squashfs-tools, squashfs-tools-ng, squashfuse and
// bubblewrap; a row whose peer is missing says so. As root it drops the caches
// and mounts with the kernel's squashfs; CORACLE_BENCH_USER names the user that
// Coracle itself then runs as.
//
// Usage: bench [-rounds N] [-only REGEXP] [-work DIR]
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	rounds := flag.Int("rounds", 10, "measurements per row and side")
	only := flag.String("only", "", "rows to measure, as a regular expression of their names")
	work := flag.String("work", filepath.Join(os.TempDir(), "coracle-bench"), "directory for the images; kept")
	flag.Parse()
	if err := run(*rounds, *only, *work); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(rounds int, only, work string) error {
	filter, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	b := &bench{rounds: rounds, work: work, root: os.Geteuid() == 0}
	if err := b.chooseUser(os.Getenv("CORACLE_BENCH_USER")); err != nil {
		return err
	}
	if err := b.prepare(); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	fmt.Printf("| what | coracle | peer | ratio | bar |\n|---|---|---|---|---|\n")
	failed := false
	for _, row := range rows {
		if !filter.MatchString(row.name) {
			continue
		}
		r, err := row.measure(b)
		if err != nil {
			fmt.Printf("| %s | | | not measured: %v | %s |\n", row.name, err, row.bar)
			continue
		}
		verdict := "met"
		if !r.met {
			verdict = "**missed**"
			failed = failed || !row.absolute
		}
		fmt.Printf("| %s | %s | %s | %s | %s: %s |\n", row.name, r.ours, r.peer, r.ratio, row.bar, verdict)
	}
	if failed {
		return fmt.Errorf("a bar was missed")
	}
	return nil
}

// bench holds what all rows share.
type bench struct {
	rounds  int
	work    string
	root    bool
	asUser  *syscall.Credential // of Coracle's processes; nil: our own
	home    string
	coracle string
	probe   string
	rootfs  string
	flat    string // the rootfs as one tar
	archive string // the same as a docker archive
	sif     string // gzip, 128 KiB blocks, by mksquashfs within a SIF of ours
	sqfs    string // its squashfs alone, for the peers
}

func (b *bench) chooseUser(name string) error {
	b.home = filepath.Join(b.work, "home")
	if name == "" {
		return nil
	}
	var ids [2]uint32
	for i, flag := range []string{"-u", "-g"} {
		out, err := exec.Command("id", flag, name).Output()
		if err != nil {
			return fmt.Errorf("id %s %s: %w", flag, name, err)
		}
		id, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 32)
		if err != nil {
			return err
		}
		ids[i] = uint32(id)
	}
	b.asUser = &syscall.Credential{Uid: ids[0], Gid: ids[1]}
	return nil
}

// ours returns a command that runs Coracle, as the chosen user.
func (b *bench) ours(args ...string) *exec.Cmd {
	cmd := exec.Command(b.coracle, args...)
	if b.asUser != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.asUser}
	}
	cmd.Env = []string{"HOME=" + b.home, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + filepath.Join(b.work, "tmp")}
	cmd.Dir = b.home
	return cmd
}
