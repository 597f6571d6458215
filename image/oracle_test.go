package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// listing describes every file of an image, but for what we add, through
// unsquashfs.
func listing(t testing.TB, path string) string {
	t.Helper()
	needs(t, "unsquashfs", "tar")
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	raw := make([]byte, img.Size)
	if _, err := img.File().ReadAt(raw, img.Offset); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(run(t, "unsquashfs", "-lln", writeTemp(t, "x.sqfs", raw))) {
		if i := strings.Index(line, "squashfs-root/"); i > 0 && !ours("/"+strings.Fields(line[i+len("squashfs-root/"):])[0]) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// ours tells what conversion adds to an image.
func ours(name string) bool {
	for _, f := range (&metadata{}).baseFiles(true) {
		if name == f.path || strings.HasPrefix(name, metaDir+"/") || f.mode.IsDir() && f.path == name {
			return true
		}
	}
	return name == "/var"
}

// TestSkopeoWritesWhatWeRead lets skopeo copy an image into every form that
// both know.
func TestSkopeoWritesWhatWeRead(t *testing.T) {
	needs(t, "skopeo")
	src := "oci:" + dirOf(t, layout(t, false, greetings(t, "one"))) + ":one"
	saved := "docker-archive:" + writeTemp(t, "x.tar", tarOf(t, legacySave(t, greetings(t, "me/one:1")))) // without zstd
	want := listing(t, build(t, src, BuildOptions{}))
	if strings.Count(want, "\n") < 6 {
		t.Fatalf("listing is\n%s", want)
	}
	for form, src := range map[string]string{"oci:%s:tag": src, "oci-archive:%s:tag": src, "docker-archive:%s:me/repo:tag": saved} {
		dest := fmt.Sprintf(form, filepath.Join(t.TempDir(), "copy"))
		run(t, "skopeo", "--insecure-policy", "copy", "-q", src, dest)
		path := build(t, dest, BuildOptions{})
		checkGreetings(t, path)
		if got := listing(t, path); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", dest, got, want)
		}
	}
}

// TestUmociUnpacksTheSame compares with what umoci makes of the same layers.
func TestUmociUnpacksTheSame(t *testing.T) {
	needs(t, "umoci")
	one := greetings(t, "one")
	one.noZstd = true
	dir := dirOf(t, layout(t, false, one))
	bundle := filepath.Join(t.TempDir(), "bundle")
	args := []string{"raw", "unpack", "--image", dir + ":one", bundle}
	if os.Geteuid() != 0 {
		args = slices.Insert(args, 2, "--rootless")
	}
	run(t, "umoci", args...)
	img, err := Open(build(t, "oci:"+dir, BuildOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	got, want := digests(t, img), digests(t, mustOpen(t, bundle))
	for name, d := range want {
		if got[name] != d {
			t.Errorf("%s: %s, want %s", name, got[name], d)
		}
		delete(got, name)
	}
	for name := range got {
		if !ours(name) {
			t.Errorf("%s should not be there", name)
		}
	}
}

func mustOpen(t testing.TB, path string) *Image {
	t.Helper()
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// digests describes the files of a root by mode and content.
func digests(t testing.TB, img *Image) map[string]string {
	t.Helper()
	r, err := img.Root()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		names, err := r.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			p := path.Join(dir, n)
			st, err := r.Lstat(p)
			if err != nil {
				t.Fatal(err)
			}
			all[p] = fmt.Sprintf("%o", st.Mode)
			switch {
			case st.IsDir():
				walk(p)
			case st.IsRegular():
				content, err := r.ReadFile(p, 1<<30)
				if err != nil {
					t.Fatal(err)
				}
				sum := sha256.Sum256(content)
				all[p] += " " + hex.EncodeToString(sum[:])
			}
		}
	}
	walk("/")
	return all
}

// TestTarballOfGoContainerRegistry builds what that library writes.
func TestTarballOfGoContainerRegistry(t *testing.T) {
	one := greetings(t)
	var image v1.Image = empty.Image
	for _, content := range one.layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, l); err != nil {
			t.Fatal(err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = one.config.OS, one.config.Architecture
	config.Created = v1.Time{Time: *one.config.Created}
	config.Config.Entrypoint, config.Config.Labels = one.config.Config.Entrypoint, one.config.Config.Labels
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag("me/repo:1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.tar")
	if err := tarball.WriteToFile(file, ref, image); err != nil {
		t.Fatal(err)
	}
	checkGreetings(t, build(t, "docker-archive:"+file+":me/repo:1", BuildOptions{}))
}

// FuzzDockerArchive feeds damaged archives: errors, and nothing worse.
func FuzzDockerArchive(f *testing.F) {
	one := greetings(f, "one")
	one.layers[0] = layerTar(f, withDirs([]tarFile{{name: "a/b", mode: 0o644, content: []byte("x")}}))
	one.layers[1] = one.layers[0]
	f.Add(tarOf(f, legacySave(f, one)), "one")
	f.Add(tarOf(f, layout(f, true, one)), "")
	f.Add(gzipped(f, tarOf(f, layout(f, false, one))), "one")
	f.Fuzz(func(t *testing.T, content []byte, selector string) {
		dir := t.TempDir()
		file := filepath.Join(dir, "x.tar")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, scheme := range []string{SchemeDockerArchive, SchemeOCIArchive} {
			s, err := openSource(t.Context(), URI{scheme, file, selector}, &PullOptions{TempDir: dir}, &blobStore{})
			if err != nil {
				continue
			}
			for _, l := range s.layers {
				r, err := l.Open()
				if err != nil {
					continue
				}
				_, _ = io.Copy(io.Discard, r) // a layer may be cut
				r.Close()
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		nothingBeside(t, dir, "x.tar")
	})
}

// TestArchiveNamesStayInside holds links in archives to the archive.
func TestArchiveNamesStayInside(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "../../../../etc/passwd"},
		{Name: "b", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"},
		{Name: "c", Typeflag: tar.TypeSymlink, Linkname: "c"},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := openArchive(t.Context(), writeTemp(t, "x.tar", b.Bytes()), &PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, n := range []string{"a", "b", "c", "../../etc/passwd", "/etc/passwd"} {
		if _, _, err := a.open(n); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", n, err)
		}
	}
	d, err := openDirectory(dirOf(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Symlink("/etc/passwd", filepath.Join(d.Name(), "blobs")); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"blobs", "../../etc/passwd"} {
		if _, _, err := d.open(n); err == nil {
			t.Errorf("%s was opened", n)
		}
	}
}
