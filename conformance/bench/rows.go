package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// result is one line of the table.
type result struct {
	ours, peer, ratio string
	met               bool
}

// row is a bar. A bar in absolute time depends on the machine: it is printed as
// met or missed and fails nothing.
type row struct {
	name, bar string
	measure   func(*bench) (result, error)
	absolute  bool
}

// rows are the bars of the README, in its order.
var rows = []row{
	{"exec true, warm, against bwrap", "≤ 10 ×", startExec, false},
	{"version, user+sys", "≤ 3 ms", startVersion, true},
	{"docker-archive → SIF (zstd), against tar2sqfs", "≤ 1.5 ×", convertZstd, false},
	{"docker-archive → SIF (gzip), against mksquashfs", "≤ 1 ×", convertGzip, false},
	{"read all files, cold, 1 reader, against the kernel", "≤ 1.2 ×", reading("read", "1", kernel, 1.2), false},
	{"read all files, cold, 2 readers, against the kernel", "≤ 1.2 ×", reading("read", "2", kernel, 1.2), false},
	{"read all files, cold, 1 reader, against squashfuse_ll", "< 1 ×", reading("read", "1", squashfuse, 1), false},
	{"read all files, cold, 2 readers, against squashfuse_ll", "< 1 ×", reading("read", "2", squashfuse, 1), false},
	{"list all files, cold, against squashfuse_ll", "< 1 ×", reading("list", "", squashfuse, 1), false},
	{"2000 random 4 KiB reads, cold, against squashfuse_ll", "< 1 ×", reading("random", "2000", squashfuse, 1), false},
	{"import numpy, cold, against squashfuse_ll + chroot", "< 1 ×", numpy, false},
	{"inflate of 128 KiB blocks, against klauspost/compress", "≥ 1.8 ×", inflate, false},
	{"inflate of 128 KiB blocks, one core, with checksum", "≥ 500 MB/s", inflateSpeed, true},
	{"peak memory of the FUSE server, all files read", "≤ 64 MiB", serverMemory, false},
	{"peak memory of the conversion", "≤ 512 MiB", convertMemory, true},
	{"binary, stripped", "≤ 30 MB", binarySize, false},
}

// pair measures two commands in turn, after one warm-up of each, and compares
// the medians.
func (b *bench) pair(rounds int, ours, peer func() (time.Duration, error), limit float64) (result, error) {
	var a, p []time.Duration
	for i := range rounds + 1 {
		x, err := ours()
		if err != nil {
			return result{}, err
		}
		y, err := peer()
		if err != nil {
			return result{}, err
		}
		if i > 0 {
			a, p = append(a, x), append(p, y)
		}
	}
	mine, theirs := median(a), median(p)
	ratio := float64(mine) / float64(theirs)
	return result{short(mine), short(theirs), fmt.Sprintf("%.2f", ratio), ratio <= limit}, nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// wall runs a fresh command and returns its wall-clock time.
func wall(make func() *exec.Cmd) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		cmd := make()
		start := time.Now()
		err := run1(cmd)
		return time.Since(start), err
	}
}

func need(names ...string) error {
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			return fmt.Errorf("needs %s", n)
		}
	}
	return nil
}

func startExec(b *bench) (result, error) {
	if err := need("bwrap"); err != nil {
		return result{}, err
	}
	ours := func() *exec.Cmd { return b.ours("exec", b.sif, "true") }
	peer := func() *exec.Cmd {
		cmd := exec.Command("bwrap", "--bind", b.rootfs, "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid", "true")
		cmd.SysProcAttr = b.ours().SysProcAttr
		return cmd
	}
	return b.pair(3*b.rounds, wall(ours), wall(peer), 10)
}

func startVersion(b *bench) (result, error) {
	var times []time.Duration
	for range 3 * b.rounds {
		cmd := b.ours("version")
		if err := run1(cmd); err != nil {
			return result{}, err
		}
		times = append(times, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	m := median(times)
	return result{short(m), "", "", m <= 3*time.Millisecond}, nil
}

func (b *bench) convert(compression string) func() *exec.Cmd {
	out := filepath.Join(b.work, "out", "converted.sif")
	return func() *exec.Cmd {
		return b.ours("-q", "build", "-F", "--compression", compression, out, "docker-archive:"+b.archive)
	}
}

func convertZstd(b *bench) (result, error) {
	if err := need("tar2sqfs"); err != nil {
		return result{}, err
	}
	out := filepath.Join(b.work, "peer.sqfs")
	peer := func() (time.Duration, error) {
		in, err := os.Open(b.flat)
		if err != nil {
			return 0, err
		}
		defer in.Close()
		cmd := exec.Command("tar2sqfs", "-q", "-f", "-c", "zstd", "-X", "level=3", out)
		cmd.Stdin = in
		start := time.Now()
		err = run1(cmd)
		return time.Since(start), err
	}
	return b.pair(b.rounds, wall(b.convert("zstd")), peer, 1.5)
}

func convertGzip(b *bench) (result, error) {
	if err := need("mksquashfs"); err != nil {
		return result{}, err
	}
	peer := func() *exec.Cmd {
		return exec.Command("mksquashfs", b.rootfs, filepath.Join(b.work, "peer.sqfs"),
			"-comp", "gzip", "-Xcompression-level", "6", "-noappend", "-no-progress", "-quiet")
	}
	return b.pair(max(3, b.rounds/3), wall(b.convert("gzip")), wall(peer), 1)
}

// dropCaches makes the next reads cold, for every peer alike.
func (b *bench) dropCaches() error {
	if !b.root {
		return fmt.Errorf("needs root, to drop caches")
	}
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// mounter mounts the gzip image at dir and returns how to unmount it.
type mounter func(b *bench, dir string) (func() error, error)

func kernel(b *bench, dir string) (func() error, error) {
	if err := command("mount", "-o", "loop,ro", b.sqfs, dir); err != nil {
		return nil, err
	}
	return func() error { return command("umount", dir) }, nil
}

func squashfuse(b *bench, dir string) (func() error, error) {
	if err := need("squashfuse_ll"); err != nil {
		return nil, err
	}
	if err := command("squashfuse_ll", b.sqfs, dir); err != nil {
		return nil, err
	}
	return func() error { return command("umount", dir) }, nil
}

// reading compares one of the probe's tasks inside a container with the same
// task on a peer's mount. The probe's own clock counts, not the start.
func reading(task, n string, mount mounter, limit float64) func(*bench) (result, error) {
	return func(b *bench) (result, error) {
		ours := func() (time.Duration, error) {
			if err := b.dropCaches(); err != nil {
				return 0, err
			}
			return seconds(b.ours(slices.Concat([]string{"exec", "--no-home", "--no-mount", "cwd", "--bind", b.probe + ":/probe", b.sif, "/probe", task, "/usr"}, words(n))...))
		}
		return b.pair(b.rounds, ours, b.onMount(mount, func(dir string) (time.Duration, error) {
			return seconds(exec.Command(b.probe, append([]string{task, dir + "/usr"}, words(n)...)...))
		}), limit)
	}
}

func words(s string) []string { return strings.Fields(s) }

// onMount returns a measurement of task on a fresh, cold mount.
func (b *bench) onMount(mount mounter, task func(dir string) (time.Duration, error)) func() (time.Duration, error) {
	return func() (d time.Duration, err error) {
		dir := filepath.Join(b.work, "mnt")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
		if err := b.dropCaches(); err != nil {
			return 0, err
		}
		unmount, err := mount(b, dir)
		if err != nil {
			return 0, err
		}
		defer func() {
			if e := unmount(); err == nil {
				err = e
			}
		}()
		return task(dir)
	}
}

// seconds runs cmd and returns the duration that it prints.
func seconds(cmd *exec.Cmd) (time.Duration, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	s, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	return time.Duration(s * float64(time.Second)), err
}

func numpy(b *bench) (result, error) {
	ours := func() (time.Duration, error) {
		if err := b.dropCaches(); err != nil {
			return 0, err
		}
		return wall(func() *exec.Cmd { return b.ours("exec", b.sif, "python3", "-c", "import numpy") })()
	}
	return b.pair(b.rounds, ours, b.onMount(squashfuse, func(dir string) (time.Duration, error) {
		return wall(func() *exec.Cmd { return exec.Command("chroot", dir, "python3", "-c", "import numpy") })()
	}), 1)
}

func inflate(*bench) (result, error) {
	mine, theirs, err := inflateSpeeds()
	if err != nil {
		return result{}, err
	}
	return result{fmt.Sprintf("%.0f MB/s", mine), fmt.Sprintf("%.0f MB/s", theirs), fmt.Sprintf("%.2f", mine/theirs), mine >= 1.8*theirs}, nil
}

func inflateSpeed(*bench) (result, error) {
	mine, _, err := inflateSpeeds()
	return result{ours: fmt.Sprintf("%.0f MB/s", mine), met: mine >= 500}, err
}

// inflateSpeeds returns the speeds that the package's own benchmark prints, in
// MB/s.
func inflateSpeeds() (mine, theirs float64, err error) {
	out, err := exec.Command("go", "test", "-run", "^$", "-bench", "Inflate", "-cpu", "1", "./image/squashfs/inflate").CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("go test: %w: %s", err, out)
	}
	speed := map[string]float64{}
	for _, m := range regexp.MustCompile(`(?m)^BenchmarkInflate/(\w+)\S*.*?([\d.]+) MB/s`).FindAllSubmatch(out, -1) {
		speed[string(m[1])], _ = strconv.ParseFloat(string(m[2]), 64)
	}
	if mine, theirs = speed["own"], speed["klauspost"]; mine == 0 || theirs == 0 {
		return 0, 0, fmt.Errorf("no figures in %s", out)
	}
	return mine, theirs, nil
}

// serverMemory reads every file in a container that then stays, and asks the
// kernel for the high-water mark of its FUSE server.
func serverMemory(b *bench) (result, error) {
	cmd := b.ours("exec", "--no-home", "--no-mount", "cwd", "--bind", b.probe+":/probe", b.sif, "/probe", "linger", "/usr", strconv.Itoa(runtime.NumCPU()))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return result{}, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return result{}, err
	}
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	defer cmd.Wait()
	defer stdin.Close()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return result{}, fmt.Errorf("probe: %q: %w", line, err)
	}
	go io.Copy(io.Discard, stdout)
	kb, err := serverPeak(cmd.Process.Pid)
	if err != nil {
		return result{}, err
	}
	return result{fmt.Sprintf("%.1f MiB", float64(kb)/1024), "", "", kb <= 64<<10}, nil
}

// serverPeak returns VmHWM in KiB of the `x fuse` child of pid.
func serverPeak(pid int) (int, error) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(children)) {
			cmdline, _ := os.ReadFile("/proc/" + child + "/cmdline")
			if !strings.Contains(string(cmdline), "\x00x\x00fuse") {
				continue
			}
			status, err := os.ReadFile("/proc/" + child + "/status")
			if err != nil {
				return 0, err
			}
			m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
			if m == nil {
				return 0, fmt.Errorf("no VmHWM of process %s", child)
			}
			return strconv.Atoi(string(m[1]))
		}
	}
	return 0, fmt.Errorf("no FUSE server below process %d", pid)
}

func convertMemory(b *bench) (result, error) {
	cmd := b.convert("zstd")()
	if err := run1(cmd); err != nil {
		return result{}, err
	}
	kb := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	return result{fmt.Sprintf("%.0f MiB", float64(kb)/1024), "", "", kb <= 512<<10}, nil
}

func binarySize(b *bench) (result, error) {
	st, err := os.Stat(b.coracle)
	if err != nil {
		return result{}, err
	}
	return result{fmt.Sprintf("%.1f MB", float64(st.Size())/1e6), "", "", st.Size() <= 30e6}, nil
}
