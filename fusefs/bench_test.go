package fusefs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkPeers measures cold reads of one image through our mount, the
// kernel's squashfs on a loop device and squashfuse_ll, in turn, and prints the
// medians. It needs root and an image of a root file system with numpy:
//
//	CORACLE_BENCH_IMAGE=image.sqfs go test ./fusefs -run - -bench Peers -benchtime 10x
//
// Cold means a fresh mount after all caches were dropped, so the image comes
// from the disk.
func BenchmarkPeers(b *testing.B) {
	image := os.Getenv("CORACLE_BENCH_IMAGE")
	needs(b, "CORACLE_BENCH_IMAGE, a squashfs image", image != "")
	needs(b, "root", initialNamespace())
	needsFUSE(b)
	needsProgram(b, "squashfuse_ll")
	files := benchFiles(b, image)
	times := map[string][]sample{}
	for range b.N {
		for _, w := range workloads {
			for _, p := range peers {
				key := w.name + "/" + p.name
				times[key] = append(times[key], measure(b, p, w, image, files))
			}
		}
	}
	if b.N > 1 || os.Getenv("CORACLE_BENCH_ONCE") != "" {
		fmt.Print(table(times)) // b.Log cuts long lines off
	}
}

// sample is one run: what the user waits for, what the server worked and held.
type sample struct {
	wall, cpu time.Duration
	peakKiB   int
}

// peer is a way to mount an image.
type peer struct {
	name  string
	mount func(b *testing.B, image, dir string) (end func() (cpu time.Duration, peakKiB int))
}

var peers = []peer{
	{"coracle", func(b *testing.B, image, dir string) func() (time.Duration, int) {
		dev, err := Mount(dir, image, unix.MS_NOSUID|unix.MS_NODEV)
		if err != nil {
			b.Fatal(err)
		}
		m := serveImage(b, dev, image, Config{})
		return func() (time.Duration, int) {
			end := m.wait(b)
			return m.server.ProcessState.UserTime() + m.server.ProcessState.SystemTime(), end.PeakKiB
		}
	}},
	{"kernel", func(b *testing.B, image, dir string) func() (time.Duration, int) {
		if out, err := exec.Command("mount", "-o", "loop,ro", "-t", "squashfs", image, dir).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		return func() (time.Duration, int) { return 0, 0 }
	}},
	{"squashfuse_ll", func(b *testing.B, image, dir string) func() (time.Duration, int) {
		cmd := exec.Command("squashfuse_ll", "-f", image, dir)
		cmd.Env = os.Environ()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		for !isMountPoint(dir) {
			time.Sleep(time.Millisecond)
		}
		return func() (time.Duration, int) {
			cmd.Wait()
			return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), 0
		}
	}},
}

func isMountPoint(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(dir+"/..", &above) == nil && here.Dev != above.Dev
}

// workload is what a user does with a mount.
type workload struct {
	name    string
	command func(dir string) *exec.Cmd
}

var workloads = []workload{
	{"read all, 1 reader", func(dir string) *exec.Cmd { return reader(dir, "all", 1) }},
	{"read all, 2 readers", func(dir string) *exec.Cmd { return reader(dir, "all", 2) }},
	{"find -ls", func(dir string) *exec.Cmd { return exec.Command("find", dir, "-ls") }},
	{"random 4K x 2000", func(dir string) *exec.Cmd { return reader(dir, "random", 1) }},
	{"import numpy", func(dir string) *exec.Cmd { return exec.Command("chroot", dir, "python3", "-c", "import numpy") }},
}

func reader(dir, how string, readers int) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", dir, how, strconv.Itoa(readers))
	cmd.Env = append(os.Environ(), roleVariable+"="+roleRead)
	return cmd
}

func measure(b *testing.B, p peer, w workload, image string, files []byte) sample {
	dir := b.TempDir()
	unix.Sync()
	end := p.mount(b, image, dir)
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		b.Fatal(err)
	}
	cmd := w.command(dir)
	cmd.Stdin = bytes.NewReader(files)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	err := cmd.Run()
	s := sample{wall: time.Since(start)}
	if err != nil {
		b.Errorf("%s on %s: %v\n%s", w.name, p.name, err, stderr.Bytes())
	}
	for unix.Unmount(dir, 0) == unix.EBUSY {
		time.Sleep(10 * time.Millisecond)
	}
	s.cpu, s.peakKiB = end()
	return s
}

// benchFiles lists an image's regular files with their sizes, as JSON.
func benchFiles(b *testing.B, image string) []byte {
	var list []benchFile
	err := fs.WalkDir(openImage(b, image).FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			list = append(list, benchFile{name, info.Size()})
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	packed, _ := json.Marshal(list)
	return packed
}

type benchFile struct {
	Name string
	Size int64
}

// readMain reads the files listed on standard input, all of all or a piece
// here and there.
func readMain() int {
	var list []benchFile
	if err := json.NewDecoder(bufio.NewReader(os.Stdin)).Decode(&list); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, how := os.Args[1], os.Args[2]
	readers, _ := strconv.Atoi(os.Args[3])
	if how == "random" {
		return readRandom(dir, list)
	}
	var next atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			buf := make([]byte, 128<<10)
			for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
				if err := readFile(filepath.Join(dir, list[i].Name), buf); err != nil {
					fmt.Fprintln(os.Stderr, list[i].Name, err)
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	if failed.Load() {
		return 1
	}
	return 0
}

// readFile uses bare system calls: Go's files would poll the mount first.
func readFile(name string, buf []byte) error {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	for {
		n, err := syscall.Read(fd, buf)
		if n <= 0 || err != nil {
			return err
		}
	}
}

func readRandom(dir string, list []benchFile) int {
	list = slices.DeleteFunc(list, func(f benchFile) bool { return f.Size < 1<<20 })
	slices.SortFunc(list, func(a, b benchFile) int { return strings.Compare(a.Name, b.Name) })
	rng := rand.New(rand.NewPCG(7, 8))
	buf := make([]byte, 4096)
	fds := map[string]int{}
	for range 2000 {
		f := list[rng.IntN(len(list))]
		fd, open := fds[f.Name]
		if !open {
			var err error
			if fd, err = syscall.Open(filepath.Join(dir, f.Name), syscall.O_RDONLY|syscall.O_CLOEXEC, 0); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM)
			fds[f.Name] = fd
		}
		if _, err := syscall.Pread(fd, buf, rng.Int64N(f.Size-4096)&^4095); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

func table(times map[string][]sample) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nworkload\tpeer\tmedian ms\tbest ms\tcoracle's share\tserver cpu ms\tserver peak MiB")
	for _, load := range workloads {
		ours := median(times[load.name+"/"+peers[0].name]).wall
		for _, p := range peers {
			list := times[load.name+"/"+p.name]
			m := median(list)
			best := slices.MinFunc(list, func(a, b sample) int { return int(a.wall - b.wall) })
			fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%.2f\t%d\t%.1f\n", load.name, p.name, ms(m.wall), ms(best.wall),
				float64(ours)/float64(m.wall), m.cpu.Milliseconds(), float64(m.peakKiB)/1024)
		}
	}
	w.Flush()
	return out.String()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func median(list []sample) sample {
	list = slices.SortedFunc(slices.Values(list), func(a, b sample) int { return int(a.wall - b.wall) })
	return list[len(list)/2]
}
