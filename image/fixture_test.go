package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// testImage is an OCI image to be stored in one of the forms below.
type testImage struct {
	config imageConfig
	layers [][]byte // tar archives, bottom first
	tags   []string
	noZstd bool // for tools that do not know it
}

// greetings is an image of three layers, of which the middle one is the same
// as the first; files are added, replaced and removed.
func greetings(t testing.TB, tags ...string) *testImage {
	t.Helper()
	created := time.Date(2021, 10, 4, 14, 50, 21, 0, time.UTC)
	i := &testImage{tags: tags}
	base := layerTar(t, withDirs([]tarFile{
		{name: "bin/greet", mode: 0o755, content: []byte("#!/bin/sh\necho hello\n")},
		{name: "etc/removed", mode: 0o644, content: []byte("gone")},
		{name: "etc/replaced", mode: 0o600, content: []byte("old")},
		{name: "usr/share/big", mode: 0o644, content: bytes.Repeat([]byte("0123456789abcdef"), 40000)},
	}))
	top := layerTar(t, withDirs([]tarFile{
		{name: "etc/replaced", mode: 0o640, content: []byte("new")},
		{name: "etc/.wh.removed", mode: 0o644},
	}))
	i.layers = [][]byte{base, base, top}
	i.config.Created, i.config.OS, i.config.Architecture = &created, "linux", runtime.GOARCH
	i.config.Config.Env = []string{"PATH=/bin", "GREETING=hello 'world' $HOME", "2BAD=x", "EMPTY="}
	i.config.Config.Entrypoint = []string{"/bin/greet"}
	i.config.Config.Cmd = []string{"one", "two words"}
	i.config.Config.Labels = map[string]string{"maker": "a & b"}
	i.config.RootFS.Type = "layers"
	for _, l := range i.layers {
		i.config.RootFS.DiffIDs = append(i.config.RootFS.DiffIDs, digestOf(l))
	}
	return i
}

func layerTar(t testing.TB, files []tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeTar(&b, files); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (i *testImage) configJSON(t testing.TB) []byte {
	t.Helper()
	raw, err := json.Marshal(&i.config)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// members are an archive's files in order. A link has a target instead of a
// content.
type testMember struct {
	name, link string
	content    []byte
}

// legacySave is what `docker save` of Docker before 25 writes: each layer in a
// directory of its own, and a link where it has been before.
func legacySave(t testing.TB, images ...*testImage) []testMember {
	t.Helper()
	var all []testMember
	var manifest []dockerImage
	seen := map[string]string{}
	for n, i := range images {
		raw := i.configJSON(t)
		d := dockerImage{Config: strings.TrimPrefix(digestOf(raw), "sha256:") + ".json", RepoTags: i.tags}
		for k, l := range i.layers {
			sum := sha256.Sum256([]byte{byte(n), byte(k)})
			dir := hex.EncodeToString(sum[:])
			file := dir + "/layer.tar"
			all = append(all, testMember{name: dir + "/VERSION", content: []byte("1.0")}, testMember{name: dir + "/json", content: []byte("{}")})
			if first := seen[digestOf(l)]; first != "" {
				all = append(all, testMember{name: file, link: "../" + first})
			} else {
				all = append(all, testMember{name: file, content: l})
				seen[digestOf(l)] = file
			}
			d.Layers = append(d.Layers, file)
		}
		all = append(all, testMember{name: d.Config, content: raw})
		manifest = append(manifest, d)
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	return append(all, testMember{name: "manifest.json", content: raw})
}

// layout is an OCI layout; its layers are compressed in turn by nothing, gzip
// and zstd.
func layout(t testing.TB, nested bool, images ...*testImage) []testMember {
	t.Helper()
	all := []testMember{{name: "oci-layout", content: []byte(`{"imageLayoutVersion":"1.0.0"}`)}}
	seen := map[string]bool{}
	blob := func(mediaType string, content []byte) ociDescriptor {
		d := ociDescriptor{MediaType: mediaType, Digest: digestOf(content), Size: int64(len(content))}
		if !seen[d.Digest] {
			seen[d.Digest] = true
			all = append(all, testMember{name: blobName(d.Digest), content: content})
		}
		return d
	}
	encode := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var index ociManifest
	for _, i := range images {
		m := ociManifest{MediaType: typeOCIManifest, Config: blob("application/vnd.oci.image.config.v1+json", i.configJSON(t))}
		for k, l := range i.layers {
			switch {
			case k%3 == 0:
				m.Layers = append(m.Layers, blob("application/vnd.oci.image.layer.v1.tar", l))
			case k%3 == 1 || i.noZstd:
				m.Layers = append(m.Layers, blob("application/vnd.oci.image.layer.v1.tar+gzip", gzipped(t, l)))
			default:
				m.Layers = append(m.Layers, blob("application/vnd.oci.image.layer.v1.tar+zstd", zstdCompressed(t, l)))
			}
		}
		d := blob(typeOCIManifest, encode(&m))
		d.Platform = &platform{OS: i.config.OS, Architecture: i.config.Architecture, Variant: i.config.Variant}
		if nested {
			attestation := d
			attestation.Platform = &platform{OS: "unknown", Architecture: "unknown"}
			d = blob(typeOCIIndex, encode(&ociManifest{MediaType: typeOCIIndex, Manifests: []ociDescriptor{attestation, d}}))
		}
		if len(i.tags) > 0 {
			d.Annotations = map[string]string{annotationRefName: i.tags[0]}
		}
		index.Manifests = append(index.Manifests, d)
	}
	index.MediaType = typeOCIIndex
	return append(all, testMember{name: "index.json", content: encode(&index)})
}

func gzipped(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstdCompressed(t testing.TB, content []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(content, nil)
}

func tarOf(t testing.TB, members []testMember) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content)), Typeflag: tar.TypeReg}
		if m.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, m.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeTemp(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func dirOf(t testing.TB, members []testMember) string {
	t.Helper()
	dir := t.TempDir()
	for _, m := range members {
		path := filepath.Join(dir, m.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, m.content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fileText reads a file through an image's root.
func fileText(t testing.TB, img *Image, name string) string {
	t.Helper()
	r, err := img.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := readFile(r, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkGreetings holds an image to what greetings says.
func checkGreetings(t testing.TB, path string) {
	t.Helper()
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	r, err := img.Root()
	if err != nil {
		t.Fatal(err)
	}
	if text := fileText(t, img, "/etc/replaced"); text != "new" {
		t.Errorf("replaced: %q", text)
	}
	if text := fileText(t, img, "/bin/greet"); text != "#!/bin/sh\necho hello\n" {
		t.Errorf("greet: %q", text)
	}
	if st, err := r.Lstat("/etc/removed"); err == nil {
		t.Errorf("a removed file is there: %+v", st)
	}
	if st, err := r.Lstat("/usr/share/big"); err != nil || st.Size != 640000 {
		t.Errorf("big: %+v, %v", st, err)
	}
	if text := fileText(t, img, "/.run"); !strings.Contains(text, "/.singularity.d/runscript") {
		t.Errorf("/.run: %q", text)
	}
	if text := fileText(t, img, "/singularity"); !strings.Contains(text, "\n"+`eval "set ${SINGULARITY_OCI_RUN}"`+"\n") {
		t.Errorf("runscript: %s", text)
	}
	labels, err := img.Labels()
	if err != nil || labels["maker"] != "a & b" || labels["org.label-schema.build-date"] != "Monday_4_October_2021_14:50:21_UTC" {
		t.Errorf("labels: %q, %v", labels, err)
	}
}

// nothingBeside fails where a directory holds more than the names given.
func nothingBeside(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !contains(names, e.Name()) {
			t.Errorf("%s was left in %s", e.Name(), dir)
		}
	}
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// nopStore forgets what it is given.
type nopStore struct{}

func (nopStore) WriteData(io.Reader, int64) (*squashfs.Data, error) { return &squashfs.Data{}, nil }
