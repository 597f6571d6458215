package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"github.com/klauspost/compress/zstd"
)

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// random is incompressible enough to fill several chunks.
func random(n int) string {
	b := make([]byte, n)
	x := uint64(n)*2862933555777941757 + 3037000493
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	return string(b)
}

func big() []file {
	return []file{f("a", random(300_000)), e("d/"), f("d/b", random(100_001)), f("z", strings.Repeat("z", 1<<20))}
}

func TestStreamDetectsCompression(t *testing.T) {
	plain := archive(t, big()...)
	half := len(plain) / 2
	skippable := append([]byte{0x52, 0x2a, 0x4d, 0x18, 3, 0, 0, 0}, "abc"...)
	for name, b := range map[string][]byte{
		"plain":                   plain,
		"gzip":                    gzipped(t, plain),
		"gzip in two members":     append(gzipped(t, plain[:half]), gzipped(t, plain[half:])...),
		"zstd":                    zstded(t, plain),
		"zstd in two frames":      append(zstded(t, plain[:half]), zstded(t, plain[half:])...),
		"zstd, skippable frames":  append(append(bytes.Clone(skippable), zstded(t, plain)...), skippable...),
		"gzip with a trailing 0s": gzipped(t, append(bytes.Clone(plain), make([]byte, 600_000)...)),
	} {
		t.Run(name, func(t *testing.T) {
			l := stored("x", b)
			l.DiffID = digestOf(plain)
			if name == "gzip with a trailing 0s" {
				l.DiffID = digestOf(append(bytes.Clone(plain), make([]byte, 600_000)...))
			}
			root, store := merged(t, []Layer{l})
			compareBig(t, root, store)
		})
	}
}

func TestStreamReadsOtherCompressors(t *testing.T) {
	for _, program := range []string{"xz", "bzip2", "pigz", "zstd"} {
		t.Run(program, func(t *testing.T) {
			needs(t, program)
			plain := archive(t, big()...)
			cmd := exec.Command(program, "-c")
			cmd.Stdin = bytes.NewReader(plain)
			b, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			l := stored("x", b)
			l.DiffID = digestOf(plain)
			root, store := merged(t, []Layer{l})
			compareBig(t, root, store)
		})
	}
}

func compareBig(t *testing.T, root *squashfs.Node, store *memory) {
	t.Helper()
	for _, want := range big() {
		n, err := Lookup(root, want.name)
		if err != nil {
			t.Fatal(err)
		}
		if n.Data != nil && store.contents[n.Data] != want.content {
			t.Errorf("%s differs", want.name)
		}
	}
}

func TestMergeRefusesAWrongDigest(t *testing.T) {
	all := layers(t, lower(), big())
	want, got := digestOf([]byte("something else")), all[1].DiffID
	all[1].DiffID = want
	_, err := Merge(context.Background(), all, &memory{}, Options{})
	var wrong *DiffIDError
	if !errors.As(err, &wrong) || wrong.Want != want || wrong.Got != got || wrong.Layer != "layer1" || wrong.Hint() == "" {
		t.Fatal(err)
	}
	for _, part := range []string{"layer1", want, got} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not name %s", err, part)
		}
	}
}

func TestMergeKnowsSHA512(t *testing.T) {
	b := archive(t, lower()...)
	l := stored("x", b)
	l.DiffID = fmt.Sprintf("sha512:%x", sha512.Sum512(b))
	merged(t, []Layer{l})
	l.DiffID = fmt.Sprintf("sha512:%x", sha512.Sum512(b[1:]))
	var wrong *DiffIDError
	if _, err := Merge(context.Background(), []Layer{l}, &memory{}, Options{}); !errors.As(err, &wrong) {
		t.Error(err)
	}
}

func TestMergeRefusesADigestThatIsWrongAfterTheArchive(t *testing.T) {
	b := append(archive(t, lower()...), 0, 0, 0, 1)
	l := stored("tail", b)
	l.DiffID = digestOf(b[:len(b)-1])
	var wrong *DiffIDError
	if _, err := Merge(context.Background(), []Layer{l}, &memory{}, Options{}); !errors.As(err, &wrong) {
		t.Error(err)
	}
}

// Wherever a layer is cut, it is refused: by its compression, by the archive,
// or by the digest.
func TestMergeRefusesATruncatedLayer(t *testing.T) {
	plain := archive(t, append(lower(), f("big", random(300_000)))...)
	for name, b := range map[string][]byte{"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain)} {
		for _, cut := range []int{0, 1, 5, 9, 11, 17, 100, 511, 512, 513, 1000, 5000, 100_000, len(b) - 1100, len(b) - 600, len(b) - 9, len(b) - 1} {
			l := stored("cut", b[:cut])
			l.DiffID = digestOf(plain)
			if _, err := Merge(context.Background(), []Layer{l}, &memory{}, Options{}); err == nil {
				t.Errorf("%s: accepted %d bytes of %d", name, cut, len(b))
			} else if !strings.Contains(err.Error(), "read layer cut: ") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestMergeRefusesADamagedLayer(t *testing.T) {
	plain := archive(t, append(lower(), f("big", random(30_000)))...)
	for name, b := range map[string][]byte{"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain)} {
		for at := 0; at < len(b); at += 997 {
			damaged := bytes.Clone(b)
			damaged[at] ^= 0x10
			l := stored("damaged", damaged)
			l.DiffID = digestOf(plain)
			root, err := Merge(context.Background(), []Layer{l}, &memory{}, Options{})
			// gzip's header has bytes that mean nothing, such as a time.
			if err == nil && !(name == "gzip" && at < 10) {
				t.Errorf("%s: accepted a flip at %d: %v", name, at, root)
			}
		}
	}
}

// sink takes any content and remembers its length only.
type sink struct{ bytes int64 }

func (s *sink) WriteData(r io.Reader, size int64) (*squashfs.Data, error) {
	n, err := io.Copy(io.Discard, r)
	s.bytes += n
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return new(squashfs.Data), err
}

// zeros is an archive with one file of that many zero bytes, made as it is
// read.
func zeros(t *testing.T, size int64) io.Reader {
	t.Helper()
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: size, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	return io.MultiReader(&head, io.LimitReader(zeroReader{}, size+1024))
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestMergeOfLargeLayersTakesLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Log("with small layers, as -short asks")
	}
	size := int64(2 << 30)
	if testing.Short() {
		size = 300 << 20
	}
	var all []Layer
	for i := range 4 {
		all = append(all, Layer{Name: fmt.Sprint(i), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(zeros(t, size/4)), nil
		}})
	}
	var peak uint64
	store := &watchingSink{peak: &peak}
	if _, err := Merge(context.Background(), all, store, Options{Workers: 4}); err != nil {
		t.Fatal(err)
	}
	// The bottom three files are hidden.
	if store.bytes != size/4 {
		t.Errorf("stored %d bytes", store.bytes)
	}
	if peak > aheadBytes+64<<20 {
		t.Errorf("heap grew to %d MiB", peak>>20)
	}
}

// watchingSink looks at the heap while it is written to.
type watchingSink struct {
	sink
	peak *uint64
}

func (s *watchingSink) WriteData(r io.Reader, size int64) (*squashfs.Data, error) {
	buf := make([]byte, 1<<20)
	for i := 0; ; i++ {
		n, err := r.Read(buf)
		s.bytes += int64(n)
		if i%2000 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			*s.peak = max(*s.peak, m.HeapInuse)
		}
		if err == io.EOF {
			return new(squashfs.Data), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// Many layers whose readers all wait for the first one must not block it.
func TestReadAheadDoesNotStarveTheLayerInUse(t *testing.T) {
	var all []Layer
	for i := range 40 {
		all = append(all, Layer{Name: fmt.Sprint(i), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(zeros(t, 40<<20)), nil
		}})
	}
	for _, workers := range []int{1, 3, 100} {
		if _, err := Merge(context.Background(), all, &sink{}, Options{Workers: workers}); err != nil {
			t.Fatal(err)
		}
	}
}
