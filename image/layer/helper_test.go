package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

// needs skips a test where a program is missing.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CORACLE_TEST_STRICT") == "1" {
				t.Fatalf("needs %s", p)
			}
			t.Skipf("needs %s", p)
		}
	}
}

// memory is a Store that keeps what it gets.
type memory struct {
	mu       sync.Mutex
	contents map[*squashfs.Data]string
	order    []string // what was stored, in the order of the calls
	limit    int64    // if set, the sum of contents
}

func (m *memory) WriteData(r io.Reader, size int64) (*squashfs.Data, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.limit > 0 && size > m.limit {
		return nil, errors.New("store is full")
	}
	m.limit -= size
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != size {
		return nil, fmt.Errorf("content has %d bytes, not %d: %w", len(b), size, io.ErrUnexpectedEOF)
	}
	if m.contents == nil {
		m.contents = map[*squashfs.Data]string{}
	}
	d := new(squashfs.Data)
	m.contents[d] = string(b)
	m.order = append(m.order, string(b))
	return d, nil
}

// file is an entry of a test's archive. Its name tells what it is unless typ
// does: a trailing slash a directory, "a -> b" a symbolic, "a => b" a hard link.
type file struct {
	name, content string
	typ           byte
	mode          int64
	uid, gid      int
	mtime         int64
	major, minor  int64
	pax           map[string]string
}

func (f file) header() *tar.Header {
	h := &tar.Header{
		Name: f.name, Typeflag: f.typ, Mode: f.mode, Uid: f.uid, Gid: f.gid, ModTime: time.Unix(f.mtime, 0),
		Size: int64(len(f.content)), Devmajor: f.major, Devminor: f.minor, PAXRecords: f.pax,
	}
	if h.Mode == 0 {
		h.Mode = 0o644
	}
	if f.typ != 0 {
		return h
	}
	h.Typeflag = tar.TypeReg
	if name, target, ok := strings.Cut(f.name, " -> "); ok {
		h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeSymlink
	} else if name, target, ok := strings.Cut(f.name, " => "); ok {
		h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeLink
	} else if strings.HasSuffix(f.name, "/") {
		h.Typeflag = tar.TypeDir
		if f.mode == 0 {
			h.Mode = 0o755
		}
	}
	return h
}

func archive(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(f.header()); err != nil {
			t.Fatalf("%q: %v", f.name, err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// stored makes a Layer of stored bytes.
func stored(name string, b []byte) Layer {
	return Layer{
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
		Size: int64(len(b)), Name: name,
	}
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// layers makes a layer of each list of files, with its digest.
func layers(t testing.TB, lists ...[]file) []Layer {
	t.Helper()
	var all []Layer
	for i, files := range lists {
		b := archive(t, files...)
		l := stored(fmt.Sprint("layer", i), b)
		l.DiffID = digestOf(b)
		all = append(all, l)
	}
	return all
}

func merged(t testing.TB, all []Layer) (*squashfs.Node, *memory) {
	t.Helper()
	store := &memory{}
	root, err := Merge(context.Background(), all, store, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return root, store
}

// list writes a tree as lines, one per path: what stands there, in short. A
// hard link is shown as its first name.
func list(root *squashfs.Node, store *memory) []string {
	var lines []string
	first := map[*squashfs.Node]string{}
	var visit func(path string, n *squashfs.Node)
	visit = func(path string, n *squashfs.Node) {
		if name, ok := first[n]; ok {
			lines = append(lines, path+" = "+name)
			return
		}
		first[n] = path
		switch n.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			lines = append(lines, path+"/")
			for _, name := range slices.Sorted(maps.Keys(n.Children)) {
				visit(join(path, name), n.Children[name])
			}
		case unix.S_IFREG:
			content := "EMPTY"
			if n.Data != nil {
				content = store.contents[n.Data]
			}
			lines = append(lines, path+": "+content)
		case unix.S_IFLNK:
			lines = append(lines, path+" -> "+n.Target)
		default:
			lines = append(lines, fmt.Sprintf("%s: %o %d:%d", path, n.Mode&unix.S_IFMT, unix.Major(n.Rdev), unix.Minor(n.Rdev)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(root.Children)) {
		visit(name, root.Children[name])
	}
	return lines
}

// f, d and the like keep the tables of tests short.
func f(name, content string) file { return file{name: name, content: content} }
func e(name string) file          { return file{name: name} }
