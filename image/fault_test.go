package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets a test start itself as a program that can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "build and wait" {
		buildAndWait(os.Args[2], os.Args[3], os.Args[4])
	}
	os.Exit(m.Run())
}

// buildAndWait builds until something of the source is converted, says so, and
// waits for its end.
func buildAndWait(dest, spec, kind string) {
	o := BuildOptions{Sandbox: kind == "sandbox", PullOptions: PullOptions{TempDir: filepath.Dir(dest)}}
	phase := "convert"
	if o.Sandbox {
		phase = "extract"
	}
	o.Progress = func(e Event) {
		if e.Phase == phase {
			fmt.Println("now")
			time.Sleep(time.Hour)
		}
	}
	err := Build(context.Background(), dest, spec, o)
	fmt.Println("ended:", err)
	os.Exit(1)
}

func TestKilledBuildLeavesNothing(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spec := "docker-archive:" + writeTemp(t, "x.tar", tarOf(t, legacySave(t, greetings(t))))
	for _, kind := range []string{"SIF", "sandbox"} {
		dir := t.TempDir()
		dest := filepath.Join(dir, "x")
		cmd := exec.Command(self, "build and wait", dest, spec, kind)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(out).ReadString('\n')
		if line != "now\n" {
			t.Errorf("%s: %q", kind, line)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
		if kind == "sandbox" {
			// A directory has a name; the next build removes it.
			if err := Build(t.Context(), dest, spec, BuildOptions{Sandbox: true}); err != nil {
				t.Error(err)
			}
			nothingBeside(t, dir, "x")
			continue
		}
		if hasUnnamedFiles(t, dir) {
			nothingBeside(t, dir)
		}
	}
}

func hasUnnamedFiles(t *testing.T, dir string) bool {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// smallDisk is a file system of a few blocks.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size="+size); err != nil {
		if os.Getenv("CORACLE_TEST_STRICT") == "1" && os.Geteuid() == 0 {
			t.Fatalf("needs to mount a tmpfs: %v", err)
		}
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestBuildOnAFullDisk(t *testing.T) {
	i := greetings(t)
	noise := make([]byte, 2<<20)
	for k := range noise {
		noise[k] = byte(k * k * k >> 7)
	}
	i.layers[2] = layerTar(t, []tarFile{{name: "noise", mode: 0o644, content: noise}})
	i.config.RootFS.DiffIDs[2] = digestOf(i.layers[2])
	archive := tarOf(t, legacySave(t, i))
	spec := "docker-archive:" + writeTemp(t, "x.tar", archive)
	packed := "docker-archive:" + writeTemp(t, "x.tar.gz", gzipped(t, archive))
	full := smallDisk(t, "64k")
	for name, do := range map[string]func() error{
		"SIF": func() error { return Build(t.Context(), filepath.Join(full, "x.sif"), spec, BuildOptions{}) },
		"sandbox": func() error {
			return Build(t.Context(), filepath.Join(full, "x"), spec, BuildOptions{Sandbox: true})
		},
		"temporary files": func() error {
			return Build(t.Context(), filepath.Join(t.TempDir(), "x.sif"), packed, BuildOptions{PullOptions: PullOptions{TempDir: full}})
		},
		"cache": func() error {
			_, err := (&Cache{full}).Get(t.Context(), URI{SchemeDockerArchive, strings.TrimPrefix(spec, "docker-archive:"), ""}, PullOptions{})
			return err
		},
	} {
		err := do()
		var noSpace NoSpaceError
		if !errors.As(err, &noSpace) || !strings.HasPrefix(noSpace.Dir, full) || !strings.Contains(noSpace.Hint(), full) {
			t.Errorf("%s: %v", name, err)
		}
		nothingBeside(t, full, "oci-tmp")
	}
	nothingBeside(t, filepath.Join(full, "oci-tmp"), ".lock")
}

func TestTemporaryImage(t *testing.T) {
	u := archiveURI(t, legacySave(t, greetings(t)))
	dir := t.TempDir()
	img, err := Temporary(t.Context(), u, PullOptions{TempDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	checkGreetings(t, img.Path)
	if err := img.Close(); err != nil {
		t.Error(err)
	}
	nothingBeside(t, dir)
	u.Path = filepath.Join(dir, "none")
	if _, err := Temporary(t.Context(), u, PullOptions{TempDir: dir}); err == nil {
		t.Error("an image of nothing")
	}
	nothingBeside(t, dir)
}
