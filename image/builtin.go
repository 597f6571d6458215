package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/coracle-runtime/coracle/image/layer"
)

// greeting is what the image builtin://hello says, by its environment.
const greeting = "A coracle is a boat that one person carries."

// openBuiltin makes an OCI image of this program itself, so that there is
// something to run where there is neither a network nor an image. It is
// converted like any other.
func openBuiltin(u URI, o *PullOptions) (*source, error) {
	if u.Path != "hello" {
		return nil, fmt.Errorf("there is no builtin image %q, but hello", u.Path)
	}
	if o.Self == "" {
		return nil, errors.New("the path of the running program is not known")
	}
	files, err := helloFiles(o.Self)
	if err != nil {
		return nil, err
	}
	// A first pass finds the digest; a second one, or more, feed the converter.
	h := sha256.New()
	size := &countingWriter{w: h}
	if err := writeTar(size, files); err != nil {
		return nil, err
	}
	diffID := "sha256:" + hex.EncodeToString(h.Sum(nil))
	raw, err := helloConfig(diffID)
	if err != nil {
		return nil, err
	}
	s := &source{digest: digestOf(raw), layers: []layer.Layer{{
		Name: "hello", Size: size.n,
		Open: func() (io.ReadCloser, error) { return streamTar(files), nil },
	}}}
	s.config, err = parseConfig(raw)
	return s, err
}

func helloConfig(diffID string) ([]byte, error) {
	var c imageConfig
	c.OS, c.Architecture = "linux", runtime.GOARCH
	c.Config.Entrypoint = []string{"/coracle", "x", "hello"}
	c.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GREETING=" + greeting}
	c.Config.Labels = map[string]string{"org.opencontainers.image.title": "hello"}
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{diffID}
	return json.Marshal(&c)
}

// tarFile is a file of an archive that is made on the fly: with a content, or
// from the host.
type tarFile struct {
	name    string
	mode    int64
	content []byte
	host    string
}

func helloFiles(self string) ([]tarFile, error) {
	files := []tarFile{
		{name: "coracle", mode: 0o755, host: self},
		{name: "etc/passwd", mode: 0o644, content: []byte("root:x:0:0:root:/root:/coracle\n")},
		{name: "etc/group", mode: 0o644, content: []byte("root:x:0:\n")},
	}
	libraries, err := sharedLibraries(self)
	if err != nil {
		return nil, fmt.Errorf("find the libraries of %s: %w", self, err)
	}
	for _, l := range libraries {
		files = append(files, tarFile{name: strings.TrimPrefix(l, "/"), mode: 0o755, host: l})
	}
	return withDirs(files), nil
}

// withDirs adds the directories that files lie in.
func withDirs(files []tarFile) []tarFile {
	seen := map[string]bool{".": true}
	var dirs []tarFile
	for _, f := range files {
		for d := path.Dir(f.name); !seen[d]; d = path.Dir(d) {
			seen[d] = true
			dirs = append(dirs, tarFile{name: d + "/", mode: 0o755})
		}
	}
	slices.SortFunc(dirs, func(a, b tarFile) int { return strings.Compare(a.name, b.name) })
	return append(dirs, files...)
}

func writeTar(w io.Writer, files []tarFile) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		if err := f.write(t); err != nil {
			return err
		}
	}
	return t.Close()
}

func (f *tarFile) write(t *tar.Writer) error {
	h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Typeflag: tar.TypeReg, Format: tar.FormatGNU}
	var content io.Reader = bytes.NewReader(f.content)
	if strings.HasSuffix(f.name, "/") {
		h.Typeflag = tar.TypeDir
	}
	if f.host != "" {
		file, err := os.Open(f.host)
		if err != nil {
			return err
		}
		defer file.Close()
		st, err := file.Stat()
		if err != nil {
			return err
		}
		h.Size, content = st.Size(), file
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{t}, struct{ io.Reader }{content}, make([]byte, 256<<10))
	return err
}

// streamTar writes the archive while it is read.
func streamTar(files []tarFile) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(w, files)) }()
	return r
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
