package image

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/sif"
)

// madeBy is an image that someone else made, with scripts of its own.
func madeBy(t *testing.T) string {
	t.Helper()
	dir := rootTree(t)
	for name, text := range map[string]string{
		".singularity.d/runscript":                "#!/bin/sh\necho theirs\n",
		".singularity.d/env/90-environment.sh":    "export THEIRS=1\n",
		".singularity.d/labels.json":              `{"maker": "them"}`,
		".singularity.d/Singularity":              "bootstrap: scratch\n",
		".singularity.d/runscript.help":           "help\n",
		".singularity.d/bootstrap_history/README": "x",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "etc/passwd"), filepath.Join(dir, "etc/hard")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBuildFromLocalImages(t *testing.T) {
	dir := madeBy(t)
	bare := writeTemp(t, "x.sqfs", squashfsOf(t, dir))
	for name, spec := range map[string]string{
		"sandbox": dir, "squashfs": bare, "SIF": sifOf(t, squashfsOf(t, dir), sif.FSSquashfs, runtime.GOARCH),
		"SIF of ours": build(t, bare, BuildOptions{}),
	} {
		t.Run(name, func(t *testing.T) {
			img, err := Open(build(t, spec, BuildOptions{}))
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			checkMadeBy(t, img, spec)
		})
	}
}

func checkMadeBy(t *testing.T, img *Image, from string) {
	t.Helper()
	for name, want := range map[string]string{
		"runscript": "#!/bin/sh\necho theirs\n", "env/90-environment.sh": "export THEIRS=1\n", "runscript.help": "help\n",
		"Singularity": "bootstrap: localimage\nfrom: " + from + "\n\n",
	} {
		if text, err := img.MetaFile(name); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if text, err := img.MetaFile("bootstrap_history/Singularity0"); err != nil || string(text) != "bootstrap: scratch\n" {
		t.Errorf("history: %q, %v", text, err)
	}
	if text, err := img.MetaFile("actions/exec"); err != nil || !strings.Contains(string(text), "exec") {
		t.Errorf("what is missing is not added: %q, %v", text, err)
	}
	labels, err := img.Labels()
	if err != nil || labels["maker"] != "them" || labels["org.label-schema.usage.singularity.deffile.bootstrap"] != "localimage" {
		t.Errorf("labels: %q, %v", labels, err)
	}
	d, ok := img.SIF.Find(sif.DataGenericJSON, "inspect-metadata.json")
	if !ok {
		t.Fatal("no inspect-metadata.json")
	}
	if raw, err := img.SIF.Data(d, 1<<20); err != nil || !strings.Contains(string(raw), `echo theirs\n`) || !strings.Contains(string(raw), "THEIRS=1") {
		t.Errorf("%s, %v", raw, err)
	}
	r, err := img.Squashfs()
	if err != nil {
		t.Fatal(err)
	}
	passwd, err1 := squashRoot{r}.inode("", "/etc/passwd")
	hard, err2 := squashRoot{r}.inode("", "/etc/hard")
	if err1 != nil || err2 != nil || passwd.Number != hard.Number || passwd.Nlink != 2 {
		t.Errorf("hard link: %+v, %+v", passwd, hard)
	}
	root := squashRoot{r}
	if target, err := root.Readlink("/dirabs"); err != nil || target != "/usr//bin/" {
		t.Errorf("%q, %v", target, err)
	}
	if st, err := root.Lstat("/fifo"); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestBuildFromLocalImageIsReproducible(t *testing.T) {
	bare := writeTemp(t, "x.sqfs", squashfsOf(t, madeBy(t)))
	var contents [2]string
	for i := range contents {
		content, err := os.ReadFile(build(t, bare, BuildOptions{PullOptions: PullOptions{Workers: 1 + 7*i}}))
		if err != nil {
			t.Fatal(err)
		}
		contents[i] = string(content)
	}
	if contents[0] != contents[1] {
		t.Error("two builds differ")
	}
}

func TestBuildOverItsSource(t *testing.T) {
	path := build(t, "docker-archive:"+writeTemp(t, "x.tar", tarOf(t, legacySave(t, greetings(t)))), BuildOptions{})
	if err := Build(t.Context(), path, path, BuildOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	checkGreetings(t, path)
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if raw, err := img.OCIConfig(); err != nil || !strings.Contains(string(raw), "two words") {
		t.Errorf("oci-config.json is lost: %s, %v", raw, err)
	}
}

func TestBuildSandbox(t *testing.T) {
	spec := "docker-archive:" + writeTemp(t, "x.tar", tarOf(t, legacySave(t, greetings(t))))
	parent := t.TempDir()
	dest := filepath.Join(parent, "box")
	o := BuildOptions{Sandbox: true}
	if err := Build(t.Context(), dest, spec, o); err != nil {
		t.Fatal(err)
	}
	checkGreetings(t, dest)
	nothingBeside(t, parent, "box")
	if err := Build(t.Context(), dest, spec, o); err == nil {
		t.Error("it was overwritten")
	}
	mark := filepath.Join(dest, "mark")
	if err := os.Mkdir(mark, 0o500); err != nil {
		t.Fatal(err)
	}
	o.Force = true
	if err := Build(t.Context(), dest, spec, o); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(mark); err == nil {
		t.Error("the old directory stays")
	}
	checkGreetings(t, dest)
	nothingBeside(t, parent, "box")
}

func TestForceSparesADirectoryThatIsNoImage(t *testing.T) {
	spec := "docker-archive:" + writeTemp(t, "x.tar", tarOf(t, legacySave(t, greetings(t))))
	dest := t.TempDir()
	precious := filepath.Join(dest, "precious")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, sandbox := range []bool{true, false} {
		if err := Build(t.Context(), dest, spec, BuildOptions{Sandbox: sandbox, Force: true}); err == nil {
			t.Error("a directory was replaced")
		}
	}
	if _, err := os.Lstat(precious); err != nil {
		t.Error(err)
	}
}

func TestTempSandbox(t *testing.T) {
	img, err := Open(build(t, "docker-archive:"+writeTemp(t, "x.tar", tarOf(t, legacySave(t, greetings(t)))), BuildOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	parent := t.TempDir()
	first, err := TempSandbox(t.Context(), img, parent, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkGreetings(t, first.Dir)
	killed, err := TempSandbox(t.Context(), img, parent, nil)
	if err != nil {
		t.Fatal(err)
	}
	// What the kernel does for a process that is killed.
	if err := killed.Lock().Close(); err != nil {
		t.Fatal(err)
	}
	other, err := TempSandbox(t.Context(), img, parent, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(killed.Dir); err == nil {
		t.Error("the sandbox of a killed process stays")
	}
	checkGreetings(t, first.Dir)
	for _, s := range []*TemporarySandbox{first, other} {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	nothingBeside(t, parent)
}

func TestRemoveTreeOfUnwritableDirectories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	if err := os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"a/b/c", "a/b", "a"} {
		if err := os.Chmod(filepath.Join(dir, d), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeTree(dir); err != nil {
		t.Error(err)
	}
	nothingBeside(t, filepath.Dir(dir))
}

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]platform{
		"": {"linux", runtime.GOARCH, ""}, "linux/arm64": {"linux", "arm64", ""}, "linux/arm64/v8": {"linux", "arm64", ""},
		"linux/arm/v7": {"linux", "arm", "v7"}, "arm/7": {"linux", "arm", "v7"}, "aarch64": {"linux", "arm64", ""},
		"x86_64": {"linux", "amd64", ""}, "armhf": {"linux", "arm", "v7"}, "Linux/AMD64": {"linux", "amd64", ""},
	} {
		if got, err := parsePlatform(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"linux", "linux/", "windows/amd64", "linux/arm/v7/x", "/", "a/b/c"} {
		if got, err := parsePlatform(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}
