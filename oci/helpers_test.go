package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"github.com/coracle-runtime/coracle/userns"
	"golang.org/x/sys/unix"
)

var payloadFlag = flag.String("payload", "", "a testdata/payload that is built already, for users without a Go toolchain")

// needs skips a test that cannot run here, or fails it where everything must.
func needs(t testing.TB, what string, there bool) {
	t.Helper()
	if there {
		return
	}
	if os.Getenv("CORACLE_TEST_STRICT") == "1" {
		t.Fatal("needs " + what)
	}
	t.Skip("needs " + what)
}

func needsContainers(t testing.TB) {
	t.Helper()
	needs(t, "user namespaces", userNamespaces() == nil)
}

func needsFUSE(t testing.TB) {
	t.Helper()
	needsContainers(t)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	needs(t, "/dev/fuse", err == nil)
	unix.Close(fd)
}

var userNamespaces = sync.OnceValue(func() error {
	cmd := exec.Command("/proc/self/exe", "x", "true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS}
	return cmd.Run()
})

// payload builds testdata/payload once.
var payload = sync.OnceValues(func() ([]byte, error) {
	if *payloadFlag != "" {
		return os.ReadFile(*payloadFlag)
	}
	dir, err := os.MkdirTemp("", "payload")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "payload"), "./testdata/payload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build payload: %w\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "payload"))
})

func payloadBytes(t testing.TB) []byte {
	t.Helper()
	b, err := payload()
	if errors.Is(err, exec.ErrNotFound) {
		needs(t, "go", false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rootFiles is the content of the test root: what a small image would have.
// Values are content; "@" makes a link, "/" a directory.
func rootFiles(t testing.TB) map[string]string {
	return map[string]string{
		"bin/payload":     string(payloadBytes(t)),
		"bin/script":      "not a program\n",
		"bin/plain":       "plain\n",
		"bin/foreign":     foreignELF(),
		"bin/interpreted": "#!/no/such/interpreter\n",
		"bin/sh":          "@payload",
		"etc/passwd":      "root:x:0:0:root:/root:/bin/sh\n",
		"etc/hello":       "hello\n",
		"proc":            "/", "sys": "/", "dev": "/", "tmp": "/", "root": "/",
		"var/run": "@../run", "run": "/",
	}
}

// foreignELF is the head of a program for another processor.
func foreignELF() string {
	head := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00")
	head = append(head, 0xf7, 0x00) // EM_BPF: nobody's
	return string(append(head, make([]byte, 44)...))
}

func executable(name string) uint32 {
	if strings.HasPrefix(name, "bin/") && name != "bin/plain" {
		return 0o755
	}
	return 0o644
}

// sandbox makes the test root as a directory.
func sandbox(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	for name, content := range rootFiles(t) {
		file := filepath.Join(dir, name)
		parent := file
		if content != "/" {
			parent = filepath.Dir(file)
		}
		err := os.MkdirAll(parent, 0o755)
		switch {
		case err != nil || content == "/":
		case content[0] == '@':
			err = os.Symlink(content[1:], file)
		default:
			err = os.WriteFile(file, []byte(content), os.FileMode(executable(name)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// image makes the test root as a SquashFS image.
func image(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "root.sqfs")
	if err := writeImage(name, rootFiles(t)); err != nil {
		t.Fatal(err)
	}
	return name
}

func writeImage(name string, files map[string]string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := squashfs.NewWriter(f, squashfs.WriterOptions{Workers: 1, Level: 1})
	if err != nil {
		return err
	}
	defer w.Close()
	root := &squashfs.Node{Mode: unix.S_IFDIR | 0o755, Children: map[string]*squashfs.Node{}}
	for name, content := range files {
		node := &squashfs.Node{}
		switch {
		case content == "/":
			node.Mode, node.Children = unix.S_IFDIR|0o755, map[string]*squashfs.Node{}
		case content[0] == '@':
			node.Mode, node.Target = unix.S_IFLNK|0o777, content[1:]
		default:
			node.Mode = unix.S_IFREG | executable(name)
			if node.Data, err = w.WriteData(strings.NewReader(content), int64(len(content))); err != nil {
				return err
			}
		}
		dir, parts := root, strings.Split(name, "/")
		for _, part := range parts[:len(parts)-1] {
			if dir.Children[part] == nil {
				dir.Children[part] = &squashfs.Node{Mode: unix.S_IFDIR | 0o755, Children: map[string]*squashfs.Node{}}
			}
			dir = dir.Children[part]
		}
		dir.Children[parts[len(parts)-1]] = node
	}
	_, err = w.Finish(root)
	return err
}

// planFor runs args in a root: the caller's own ids, the host's /proc, /sys and
// /dev.
func planFor(t testing.TB, root string, args ...string) *Plan {
	t.Helper()
	uid, gid := os.Getuid(), os.Getgid()
	p := &Plan{
		Mounts: []Mount{
			{Type: "rbind", Source: "/proc", Target: "/proc", Flags: unix.MS_NOSUID | unix.MS_NODEV, Tag: "kernel"},
			{Type: "rbind", Source: "/sys", Target: "/sys", Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV, Tag: "kernel"},
			{Type: "rbind", Source: "/dev", Target: "/dev", Flags: unix.MS_RDONLY | unix.MS_NOSUID, Tag: "kernel"},
		},
		Process: Process{
			Args: args, Env: []string{"PATH=/none:/bin", "A=1"}, Umask: -1, NoNewPrivs: true, UID: uid, GID: gid,
		},
		IDs: userns.Map{
			Method: userns.Single,
			UID:    []userns.Extent{{Inside: uint32(uid), Outside: uint32(uid), Count: 1}},
			GID:    []userns.Extent{{Inside: uint32(gid), Outside: uint32(gid), Count: 1}},
		},
	}
	st, err := os.Stat(root)
	if err != nil {
		t.Fatal(err)
	}
	if st.IsDir() {
		p.Root.Dir = root
	} else {
		p.Root.Image = &Squashfs{Path: root, Size: st.Size(), Owner: &[2]int{uid, gid}}
	}
	return p
}

// onEveryRoot runs a test with an image, and with a directory.
func onEveryRoot(t *testing.T, test func(t *testing.T, root string)) {
	t.Run("image", func(t *testing.T) {
		needsFUSE(t)
		test(t, image(t))
	})
	t.Run("directory", func(t *testing.T) {
		needsContainers(t)
		test(t, sandbox(t))
	})
}

// result is how a caller ended.
type result struct {
	stdout, stderr string
	code           int
	signal         syscall.Signal
}

// caller prepares a process that runs a plan.
func caller(t testing.TB, p *Plan) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "plan.json")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "x", "caller", file)
	cmd.Args[0] = "coracle"
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs a plan to its end.
func run(t testing.TB, p *Plan) result {
	t.Helper()
	return finish(t, caller(t, p))
}

func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run caller: %v\n%s", err, errs.String())
	}
	r := result{stdout: out.String(), stderr: errs.String(), code: cmd.ProcessState.ExitCode()}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		r.signal = status.Signal()
	}
	return r
}

// seen is what `payload look` tells.
type seen struct {
	Args, Env     []string
	PID, PPID     int
	UID, GID      int
	Groups        []int
	Cwd, Hostname string
	Umask         int
	Nofile        uint64
	Status        map[string]string
	Mounts        string
	Descriptors   []int
	Lo            string
	Pgrp          int
}

func look(t testing.TB, p *Plan) (seen, result) {
	t.Helper()
	r := run(t, p)
	var s seen
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || r.code != 0 {
		t.Fatalf("look: code %d, %v\nstdout: %s\nstderr: %s", r.code, err, r.stdout, r.stderr)
	}
	return s, r
}
