package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	sylabs "github.com/sylabs/sif/v2/pkg/sif"

	"github.com/coracle-runtime/coracle/image/layer"
	"github.com/coracle-runtime/coracle/image/squashfs"
)

func build(t testing.TB, spec string, o BuildOptions) string {
	t.Helper()
	dest := filepath.Join(t.TempDir(), "out.sif")
	if err := Build(t.Context(), dest, spec, o); err != nil {
		t.Fatal(err)
	}
	nothingBeside(t, filepath.Dir(dest), "out.sif")
	return dest
}

func TestBuildFromEverySource(t *testing.T) {
	one, other := greetings(t, "me/one:1"), greetings(t, "me/other:2")
	other.config.Config.Labels = nil
	save := tarOf(t, legacySave(t, one, other))
	tagged := greetings(t, "one")
	archive := writeTemp(t, "x.tar", save)
	ociDir, ociTar := dirOf(t, layout(t, true, tagged)), tarOf(t, layout(t, false, tagged, other))
	for name, spec := range map[string]string{
		"docker save":                   "docker-archive:" + archive + ":me/one:1",
		"docker save with a registry":   "docker-archive:" + archive + ":docker.io/me/one:1",
		"docker save by index":          "docker-archive:" + archive + ":@0",
		"docker save, gzip":             "docker-archive:" + writeTemp(t, "x.tgz", gzipped(t, save)) + ":me/one:1",
		"docker save, zstd":             "docker-archive:" + writeTemp(t, "x", zstdCompressed(t, save)) + ":me/one:1",
		"docker save of one":            "docker-archive:" + writeTemp(t, "x.tar", tarOf(t, legacySave(t, one))),
		"docker save that is a layout":  "docker-archive:" + writeTemp(t, "x.tar", ociTar) + ":one",
		"layout":                        "oci:" + ociDir,
		"layout with a tag":             "oci:" + ociDir + ":one",
		"archive of a layout":           "oci-archive:" + writeTemp(t, "x.tar", ociTar) + ":one",
		"archive of a layout with gzip": "oci-archive:" + writeTemp(t, "x.tar.gz", gzipped(t, ociTar)) + ":one",
	} {
		t.Run(name, func(t *testing.T) { checkGreetings(t, build(t, spec, BuildOptions{})) })
	}
}

func TestBuildFromLayoutByDigest(t *testing.T) {
	members := layout(t, false, greetings(t, "one"), greetings(t, "two"))
	var index ociManifest
	if err := json.Unmarshal(members[len(members)-1].content, &index); err != nil {
		t.Fatal(err)
	}
	checkGreetings(t, build(t, "oci:"+dirOf(t, members)+"@"+index.Manifests[0].Digest, BuildOptions{}))
}

func TestBuildAsksWhichImage(t *testing.T) {
	one, other := greetings(t, "me/one:1"), greetings(t, "me/other:2")
	other.config.Config.Cmd = nil
	for _, spec := range []string{
		"docker-archive:" + writeTemp(t, "x.tar", tarOf(t, legacySave(t, one, other))),
		"oci:" + dirOf(t, layout(t, false, one, other)),
	} {
		for _, selector := range []string{"", ":none:3"} {
			err := Build(t.Context(), filepath.Join(t.TempDir(), "x.sif"), spec+selector, BuildOptions{})
			if err == nil || !strings.Contains(err.Error(), "me/one:1, me/other:2") {
				t.Errorf("%s: %v", spec+selector, err)
			}
		}
	}
}

// TestBuildIsWhatSylabsReads holds the order of descriptors to SingularityCE's.
func TestBuildIsWhatSylabsReads(t *testing.T) {
	one := greetings(t)
	path := build(t, "docker-archive:"+writeTemp(t, "x.tar", tarOf(t, legacySave(t, one))), BuildOptions{})
	st, err := os.Stat(path)
	if err != nil || st.Mode()&0o100 == 0 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	f, err := sylabs.LoadContainerFromPath(path, sylabs.OptLoadWithFlag(os.O_RDONLY))
	if err != nil {
		t.Fatal(err)
	}
	defer f.UnloadContainer()
	if f.PrimaryArch() != runtime.GOARCH || f.LaunchScript() != "#!/usr/bin/env run-singularity\n" {
		t.Errorf("%s, %q", f.PrimaryArch(), f.LaunchScript())
	}
	var got []string
	f.WithDescriptors(func(d sylabs.Descriptor) bool {
		got = append(got, d.DataType().String()+" "+d.Name())
		if d.GroupID() != 1 {
			t.Errorf("%v is in group %d", d.DataType(), d.GroupID())
		}
		return false
	})
	want := []string{"Def.FILE ", "JSON.Generic inspect-metadata.json", "JSON.Generic oci-config.json", "FS "}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("descriptors %q, want %q", got, want)
	}
	fsType, partType, arch, err := mustDescriptor(t, f, 4).PartitionMetadata()
	if err != nil || fsType != sylabs.FsSquash || partType != sylabs.PartPrimSys || arch != runtime.GOARCH {
		t.Errorf("partition %v %v %v, %v", fsType, partType, arch, err)
	}
	raw, err := mustDescriptor(t, f, 3).GetData()
	var config struct{ Cmd []string }
	if err != nil || json.Unmarshal(raw, &config) != nil || len(config.Cmd) != 2 {
		t.Errorf("oci-config.json: %s, %v", raw, err)
	}
	raw, err = mustDescriptor(t, f, 2).GetData()
	var inspect inspection
	if err != nil || json.Unmarshal(raw, &inspect) != nil || inspect.Type != "container" || inspect.Data.Attributes.Labels["maker"] != "a & b" {
		t.Errorf("inspect-metadata.json: %s, %v", raw, err)
	}
}

func mustDescriptor(t *testing.T, f *sylabs.FileImage, id uint32) sylabs.Descriptor {
	t.Helper()
	d, err := f.GetDescriptor(sylabs.WithID(id))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestBuildIsReproducible(t *testing.T) {
	spec := "docker-archive:" + writeTemp(t, "x.tar", tarOf(t, legacySave(t, greetings(t))))
	for _, c := range []squashfs.Compression{squashfs.Zstd, squashfs.Gzip} {
		var first []byte
		for _, workers := range []int{1, 16, 0} {
			o := BuildOptions{PullOptions: PullOptions{Workers: workers, Compression: c}}
			content, err := os.ReadFile(build(t, spec, o))
			if err != nil {
				t.Fatal(err)
			}
			if first != nil && !bytes.Equal(first, content) {
				t.Errorf("%v: %d workers give other bytes", c, workers)
			}
			first = content
		}
	}
}

func TestBuildTakesTheTimeAskedFor(t *testing.T) {
	spec := "docker-archive:" + writeTemp(t, "x.tar", tarOf(t, legacySave(t, greetings(t))))
	path := build(t, spec, BuildOptions{PullOptions: PullOptions{Time: time.Unix(86400, 0)}})
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	labels, err := img.Labels()
	if err != nil || labels["org.label-schema.build-date"] != "Friday_2_January_1970_0:0:0_UTC" || img.SIF.Created.Unix() != 86400 {
		t.Errorf("%v %v, %v", labels, img.SIF.Created, err)
	}
}

func TestBuildRefusesToOverwrite(t *testing.T) {
	spec := "docker-archive:" + writeTemp(t, "x.tar", tarOf(t, legacySave(t, greetings(t))))
	dest := writeTemp(t, "out.sif", []byte("precious"))
	err := Build(t.Context(), dest, spec, BuildOptions{})
	if want := "build target '" + dest + "' already exists. Use --force if you want to overwrite it"; err == nil || err.Error() != want || !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
	if content, _ := os.ReadFile(dest); string(content) != "precious" {
		t.Errorf("it was overwritten: %q", content)
	}
	if err := Build(t.Context(), dest, spec, BuildOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	checkGreetings(t, dest)
	nothingBeside(t, filepath.Dir(dest), "out.sif")
}

func TestBuildRefusesDamage(t *testing.T) {
	one := greetings(t, "one")
	good := legacySave(t, one)
	flip := func(members []testMember, name string) []testMember {
		var all []testMember
		for _, m := range members {
			if strings.Contains(m.name, name) && len(m.content) > 0 {
				m.content = bytes.Clone(m.content)
				m.content[len(m.content)/2] ^= 1
			}
			all = append(all, m)
		}
		return all
	}
	config := digestOf(one.configJSON(t))[7:]
	archive := tarOf(t, good)
	half, gz := archive[:len(archive)/2], gzipped(t, archive)
	blobs := layout(t, false, one)
	without := func(name string) []testMember {
		var all []testMember
		for _, m := range blobs {
			if m.name != name {
				all = append(all, m)
			}
		}
		return all
	}
	docker := func(content []byte) string { return "docker-archive:" + writeTemp(t, "x.tar", content) }
	oci := func(m []testMember) string { return "oci:" + dirOf(t, m) }
	cases := map[string]string{
		"flipped layer":      docker(tarOf(t, flip(good, "layer.tar"))),
		"flipped config":     docker(tarOf(t, flip(good, ".json"))),
		"cut archive":        docker(half),
		"cut gzip":           docker(gz[:len(gz)-20]),
		"flipped gzip":       docker(append(bytes.Clone(gz[:len(gz)-6]), 1, 2, 3, 4, 5, 6)),
		"not an archive":     docker([]byte("hello")),
		"empty":              docker(nil),
		"other archive":      docker(tarOf(t, []testMember{{name: "x"}})),
		"missing archive":    "docker-archive:" + filepath.Join(t.TempDir(), "none.tar"),
		"missing layout":     "oci:" + filepath.Join(t.TempDir(), "none"),
		"empty layout":       "oci:" + t.TempDir(),
		"missing config":     oci(without(blobName("sha256:" + config))),
		"config of layout":   oci(flip(blobs, config)),
		"link loop":          docker(tarOf(t, append(good[:len(good):len(good)], testMember{name: good[2].name, link: "layer.tar"}))),
		"several JSON types": docker(tarOf(t, []testMember{{name: "manifest.json", content: []byte(`{"a":1}`)}})),
	}
	for _, m := range blobs {
		if strings.HasPrefix(m.name, "blobs/") {
			cases["flipped "+m.name] = oci(flip(blobs, m.name))
			cases["without "+m.name] = oci(without(m.name))
		}
	}
	for name, spec := range cases {
		t.Run(name, func(t *testing.T) {
			dir, temp := t.TempDir(), t.TempDir()
			dest := filepath.Join(dir, "x.sif")
			err := Build(t.Context(), dest, spec, BuildOptions{PullOptions: PullOptions{TempDir: temp}})
			if err == nil {
				t.Error("it was built")
			}
			nothingBeside(t, dir)
			nothingBeside(t, temp)
		})
	}
}

func TestBuildCancelledLeavesNothing(t *testing.T) {
	spec := "docker-archive:" + writeTemp(t, "x.tar.gz", gzipped(t, tarOf(t, legacySave(t, greetings(t)))))
	for _, phase := range []string{"read", "convert"} {
		for _, sandbox := range []bool{false, true} {
			dir, temp := t.TempDir(), t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			o := BuildOptions{Sandbox: sandbox, PullOptions: PullOptions{TempDir: temp, Progress: func(e Event) {
				if e.Phase == phase {
					cancel()
				}
			}}}
			if err := Build(ctx, filepath.Join(dir, "x"), spec, o); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", phase, err)
			}
			nothingBeside(t, dir)
			nothingBeside(t, temp)
		}
	}
}

func TestNewFile(t *testing.T) {
	for name, create := range map[string]func(string, fs.FileMode) (*newFile, error){"unnamed": createFile, "named": createNamed} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x")
			write := func(content string) *newFile {
				n, err := create(path, 0o755)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := n.WriteString(content); err != nil {
					t.Fatal(err)
				}
				return n
			}
			if err := write("dropped").Close(); err != nil {
				t.Error(err)
			}
			nothingBeside(t, dir)
			first := write("first")
			if err := errors.Join(first.commit(false), first.Close()); err != nil {
				t.Fatal(err)
			}
			second := write("second")
			if err := second.commit(false); !errors.Is(err, fs.ErrExist) {
				t.Errorf("it replaces: %v", err)
			}
			if err := errors.Join(second.commit(true), second.Close()); err != nil {
				t.Fatal(err)
			}
			if content, err := os.ReadFile(path); err != nil || string(content) != "second" {
				t.Errorf("%q, %v", content, err)
			}
			nothingBeside(t, dir, "x")
		})
	}
}

func TestNamedFilesOfKilledProcessesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	dest := filepath.Join(dir, "x.sif")
	if err := os.WriteFile(temporaryName(dest), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	live, err := createNamed(dest, 0o755) // removes the first, and is locked itself
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	removeStale(dest)
	nothingBeside(t, dir, filepath.Base(live.temporary))
}

func TestInsertKeepsWhatTheImageHas(t *testing.T) {
	dir := func(children map[string]*squashfs.Node) *squashfs.Node {
		return &squashfs.Node{Mode: unixMode(fs.ModeDir | 0o700), Children: children}
	}
	link := func(target string) *squashfs.Node {
		return &squashfs.Node{Mode: unixMode(fs.ModeSymlink | 0o777), Target: target}
	}
	text := &squashfs.Node{Mode: unixMode(0o640)}
	root := dir(map[string]*squashfs.Node{
		"var":  dir(map[string]*squashfs.Node{"tmp": link("/tmp")}),
		"etc":  dir(map[string]*squashfs.Node{"hosts": text, "resolv.conf": link("../run/none")}),
		"home": link("/usr/home"), "proc": text,
	})
	m := &metadata{created: time.Unix(5, 0)}
	for _, f := range m.baseFiles(true) {
		if err := f.insert(root, nopStore{}, m.created); err != nil {
			t.Errorf("%s: %v", f.path, err)
		}
	}
	for name, want := range map[string]string{"/var/tmp": "/tmp", "/home": "/usr/home"} {
		if n, err := layer.Lookup(root, name); err != nil || n.Target != want {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
	if n, _ := layer.Lookup(root, "/etc/hosts"); n != text {
		t.Error("/etc/hosts was replaced")
	}
	if n, err := layer.Lookup(root, "/etc/resolv.conf"); err != nil || n.Mode != unixMode(0o644) {
		t.Errorf("a link to nowhere stays as /etc/resolv.conf: %+v, %v", n, err)
	}
	if n, err := layer.Lookup(root, "/tmp"); err != nil || n.Mode != unixMode(fs.ModeDir|fs.ModeSticky|0o777) || n.ModTime != 5 {
		t.Errorf("/tmp: %+v, %v", n, err)
	}
}
