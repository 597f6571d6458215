package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// outcome is what a behaviour looks like from outside.
type outcome struct {
	Stdout string
	Status int
}

func (o outcome) String() string { return fmt.Sprintf("status %d, stdout %q", o.Status, o.Stdout) }

// engine is one of the programs that are compared.
type engine struct {
	name string
	load func(t *testing.T, archive, tag string) string // returns the image's name for run
	run  func(image string, b behaviour) *exec.Cmd
	try  func(archive string) error // loads an image tagged smokeTag and runs it
}

// needs skips a test whose need is missing; in CI it fails instead.
func needs(t *testing.T, what string, have bool) {
	t.Helper()
	switch {
	case have:
	case os.Getenv("CORACLE_TEST_STRICT") == "1":
		t.Fatalf("needs %s", what)
	default:
		t.Skipf("needs %s", what)
	}
}

// peers returns the engines that can run a container here. Users need one in
// CI; root's podman wants limits that a virtual machine may not grant.
func peers(t *testing.T) []engine {
	t.Helper()
	archive := writeArchive(t, t.TempDir(), smokeTag, config{Cmd: []string{"/bin/true"}})
	var all []engine
	for _, e := range []engine{containerEngine("docker"), containerEngine("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")} {
		if err := e.try(archive); err != nil {
			t.Logf("%s does not work here: %v", e.name, err)
			continue
		}
		all = append(all, e)
	}
	if len(all) == 0 && os.Geteuid() == 0 {
		t.Skip("needs a docker or podman that works for root; the gate runs this as a user, too")
	}
	needs(t, "a working podman or docker", len(all) > 0)
	return all
}

const smokeTag = "localhost/coracle-conformance:smoke"

// containerEngine drives docker or a program that speaks its command line.
func containerEngine(name string, flags ...string) engine {
	command := func(args ...string) *exec.Cmd { return exec.Command(name, append(flags, args...)...) }
	return engine{
		name: name,
		load: func(t *testing.T, archive, tag string) string {
			if out, err := command("load", "-q", "-i", archive).CombinedOutput(); err != nil {
				t.Fatalf("%s load: %v: %s", name, err, out)
			}
			t.Cleanup(func() { command("rmi", "-f", tag).Run() })
			return tag
		},
		try: func(archive string) error {
			if out, err := command("load", "-q", "-i", archive).CombinedOutput(); err != nil {
				return fmt.Errorf("load: %w: %s", err, out)
			}
			defer command("rmi", "-f", smokeTag).Run()
			if out, err := command("run", "--rm", "--network", "none", smokeTag).CombinedOutput(); err != nil {
				return fmt.Errorf("run: %w: %s", err, out)
			}
			return nil
		},
		run: func(image string, b behaviour) *exec.Cmd {
			args := []string{"run", "--rm", "-i", "--network", "none"}
			if b.exec {
				args = append(args, "--entrypoint", b.args[0], image)
				return command(append(args, b.args[1:]...)...)
			}
			return command(append(append(args, image), b.args...)...)
		},
	}
}

// coracle returns our engine, freshly built. Its --compat mode is the one that
// promises Docker's argument and environment handling.
func coracle(t *testing.T) engine {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "coracle")
	build := exec.Command("go", "build", "-o", binary, "./cmd/coracle")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return engine{
		name: "coracle",
		load: func(t *testing.T, archive, _ string) string {
			sif := filepath.Join(t.TempDir(), "image.sif")
			if out, err := exec.Command(binary, "-q", "build", sif, "docker-archive:"+archive).CombinedOutput(); err != nil {
				t.Fatalf("coracle build: %v: %s", err, out)
			}
			return sif
		},
		run: func(image string, b behaviour) *exec.Cmd {
			word := "run"
			if b.exec {
				word = "exec"
			}
			return exec.Command(binary, append([]string{word, "--compat", "--fakeroot", image}, b.args...)...)
		},
	}
}

// do runs one behaviour and collects its outcome.
func do(t *testing.T, e engine, image string, b behaviour) outcome {
	t.Helper()
	cmd := e.run(image, b)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(b.stdin), &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", e.name, err)
	}
	o := outcome{stdout.String(), cmd.ProcessState.ExitCode()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		o.Status = 128 + int(status.Signal())
	}
	if testing.Verbose() && stderr.Len() > 0 {
		t.Logf("%s stderr: %s", e.name, stderr.String())
	}
	return o
}
