package image

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func archiveURI(t testing.TB, members []testMember) URI {
	t.Helper()
	return URI{Scheme: SchemeDockerArchive, Path: writeTemp(t, "x.tar.gz", gzipped(t, tarOf(t, members)))}
}

func TestCacheConvertsOnce(t *testing.T) {
	u := archiveURI(t, legacySave(t, greetings(t)))
	c, err := OpenCache(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	var conversions atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			var once sync.Once
			path, err := c.Get(t.Context(), u, PullOptions{Progress: func(e Event) {
				if e.Phase == "convert" {
					once.Do(func() { conversions.Add(1) })
				}
			}})
			if err != nil {
				t.Error(err)
				return
			}
			checkGreetings(t, path)
		})
	}
	group.Wait()
	if n := conversions.Load(); n != 1 {
		t.Errorf("it was converted %d times", n)
	}
	entries, err := os.ReadDir(c.imageDir())
	if err != nil || len(entries) != 2 { // the image and the lock
		t.Errorf("the cache holds %v, %v", entries, err)
	}
	if st, err := os.Stat(c.Dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestCacheKnowsAnArchiveWithoutReadingIt(t *testing.T) {
	u := archiveURI(t, legacySave(t, greetings(t)))
	c := &Cache{t.TempDir()}
	first, err := c.Get(t.Context(), u, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	read := false
	o := PullOptions{Progress: func(Event) { read = true }}
	if path, err := c.Get(t.Context(), u, o); err != nil || path != first || read {
		t.Errorf("%s, %v, read: %v", path, err, read)
	}
	other := greetings(t)
	other.config.Config.Env = nil
	if err := os.WriteFile(u.Path, tarOf(t, legacySave(t, other)), 0o644); err != nil {
		t.Fatal(err)
	}
	if path, err := c.Get(t.Context(), u, PullOptions{}); err != nil || path == first {
		t.Errorf("a changed archive is not noticed: %s, %v", path, err)
	}
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(u.Path, tarOf(t, legacySave(t, greetings(t))), 0o644); err != nil {
		t.Fatal(err)
	}
	if path, err := c.Get(t.Context(), u, PullOptions{}); err != nil || path != first {
		t.Errorf("%s, %v", path, err)
	}
}

func TestCacheLockWaitsAndGivesUp(t *testing.T) {
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.lock(t.Context(), "image", &PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.lock(ctx, "image", &PullOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	other, err := c.lock(t.Context(), "other", &PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Close(), other.Close()); err != nil {
		t.Error(err)
	}
	again, err := c.lock(t.Context(), "image", &PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenCacheThatCannotBeWritten(t *testing.T) {
	file := writeTemp(t, "file", nil)
	if _, err := OpenCache(filepath.Join(file, "cache")); err == nil {
		t.Error("opened a cache below a file")
	}
}

// TestBuiltinHello makes the image with this test binary in the runtime's place.
func TestBuiltinHello(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	u, err := ParseURI("builtin://hello")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cache{t.TempDir()}
	path, err := c.Get(t.Context(), u, PullOptions{Self: self})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Get(t.Context(), u, PullOptions{Self: self}); err != nil || again != path {
		t.Errorf("%s, %v", again, err)
	}
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	run, err := img.Runscript()
	if err != nil || !strings.Contains(string(run), `OCI_ENTRYPOINT='"/coracle" "x" "hello"'`) {
		t.Errorf("%s, %v", run, err)
	}
	r, err := img.Root()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.ReadFile("/coracle", int64(len(want)))
	if err != nil || string(got) != string(want) {
		t.Errorf("the program differs: %v", err)
	}
	if text := fileText(t, img, "/.singularity.d/env/10-docker2singularity.sh"); !strings.Contains(text, greeting) {
		t.Errorf("%s", text)
	}
	if _, err := c.Get(t.Context(), URI{Scheme: SchemeBuiltin, Path: "none"}, PullOptions{Self: self}); err == nil {
		t.Error("there is an image none")
	}
}

// TestSharedLibraries asks the dynamic linker.
func TestSharedLibraries(t *testing.T) {
	needs(t, "ldd", "ls")
	program, err := exec.LookPath("ls")
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := sharedLibraries(program)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, l := range libraries {
		names[filepath.Base(l)] = true
	}
	for line := range strings.Lines(run(t, "ldd", program)) {
		name := filepath.Base(strings.Fields(line)[0])
		if name != "linux-vdso.so.1" && !strings.Contains(line, "statically") && !names[name] {
			t.Errorf("%s is missing in %q", name, libraries)
		}
	}
}
