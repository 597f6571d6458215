package squashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

// buildSample writes the sample files to out and returns the first error.
func buildSample(out squashfs.Output, o squashfs.WriterOptions, contents [][]byte) (int64, error) {
	w, err := squashfs.NewWriter(out, o)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	root := writeDirNode(map[string]*squashfs.Node{})
	for i, content := range contents {
		d, err := w.WriteData(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return 0, err
		}
		root.Children[fmt.Sprint(i)] = &squashfs.Node{Mode: unix.S_IFREG, Data: d}
	}
	return w.Finish(root)
}

func TestWriterReportsFullOutput(t *testing.T) {
	before := runtime.NumGoroutine()
	var contents [][]byte
	for i := range 20 {
		contents = append(contents, prose(uint64(i%15), 2000*i)) // with duplicates
	}
	o := squashfs.WriterOptions{BlockSize: 4096, Workers: 2}
	size, err := buildSample(&memoryImage{}, o, contents)
	must(t, err)
	for limit := int64(1); limit < size; limit += 1 + size/80 {
		if _, err := buildSample(&memoryImage{limit: limit}, o, contents); !errors.Is(err, errFull) {
			t.Errorf("output of %d bytes for an image of %d: got error %v", limit, size, err)
		}
	}
	if _, err := buildSample(&memoryImage{limit: size}, o, contents); err != nil {
		t.Errorf("output of just the image's size: %v", err)
	}
	checkGoroutines(t, before)
}

// checkGoroutines waits for goroutines to end that were told to.
func checkGoroutines(t *testing.T, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

// unreadable is an Output whose content cannot be read back.
type unreadable struct{ memoryImage }

var errUnreadable = errors.New("bad sector")

func (*unreadable) ReadAt([]byte, int64) (int, error) { return 0, errUnreadable }

func TestWriterReportsUnreadableOutput(t *testing.T) {
	same := static(1, 300_000)
	if _, err := buildSample(&unreadable{}, squashfs.WriterOptions{}, [][]byte{same, same}); !errors.Is(err, errUnreadable) {
		t.Errorf("got error %v", err)
	}
	if _, err := buildSample(&unreadable{}, squashfs.WriterOptions{}, [][]byte{same, same[1:]}); err != nil {
		t.Errorf("without duplicates nothing need be read back: %v", err)
	}
}

func TestWriterReadsJustTheContent(t *testing.T) {
	w, err := squashfs.NewWriter(&memoryImage{}, squashfs.WriterOptions{BlockSize: 4096})
	must(t, err)
	defer w.Close()
	stream := strings.NewReader(strings.Repeat("x", 10_000) + strings.Repeat("y", 96) + "rest")
	for _, size := range []int64{10_000, 96, 0} {
		_, err = w.WriteData(iotest.OneByteReader(stream), size)
		must(t, err)
	}
	if rest, _ := io.ReadAll(stream); string(rest) != "rest" {
		t.Errorf("left %q in the stream", rest)
	}
}

func TestWriterRefusesShortContent(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, size := range []int64{1, 100, 5000, 100_000, math.MaxInt64} {
		w, err := squashfs.NewWriter(&memoryImage{}, squashfs.WriterOptions{BlockSize: 4096})
		must(t, err)
		short := min(size-1, 99_999)
		_, err = w.WriteData(bytes.NewReader(make([]byte, short)), size)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: got error %v", short, size, err)
		}
		if _, err := w.WriteData(strings.NewReader("x"), 1); err == nil {
			t.Error("content after an error is taken")
		}
		if _, err := w.Finish(writeDirNode(nil)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("finish after an error: %v", err)
		}
		must(t, w.Close())
		must(t, w.Close())
	}
	checkGoroutines(t, before)
}

func TestWriterPassesReadErrorsOn(t *testing.T) {
	bad := errors.New("bad layer")
	for _, at := range []int{0, 100, 4096, 9000} {
		w, err := squashfs.NewWriter(&memoryImage{}, squashfs.WriterOptions{BlockSize: 4096})
		must(t, err)
		r := io.MultiReader(bytes.NewReader(make([]byte, at)), iotest.ErrReader(bad))
		if _, err = w.WriteData(r, 10_000); !errors.Is(err, bad) {
			t.Errorf("error at byte %d: got %v", at, err)
		}
		must(t, w.Close())
	}
}

func TestWriterRefusesOptions(t *testing.T) {
	for want, o := range map[string]squashfs.WriterOptions{
		"only zstd and gzip":        {Compression: squashfs.XZ},
		"block size 5000":           {BlockSize: 5000},
		"block size 2048":           {BlockSize: 2048},
		"block size 2097152":        {BlockSize: 2 << 20},
		"gzip has 1 to 9":           {Compression: squashfs.Gzip, Level: 10},
		"zstd has 1 to 22":          {Level: 23},
		"compression level -1:":     {Level: -1},
		"compression compression(9": {Compression: 9},
	} {
		if _, err := squashfs.NewWriter(&memoryImage{}, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got error %v, want one with %q", o, err, want)
		}
	}
}

func TestWriterRefusesTrees(t *testing.T) {
	file := func() *squashfs.Node { return &squashfs.Node{Mode: unix.S_IFREG} }
	in := func(name string, n *squashfs.Node) *squashfs.Node {
		return writeDirNode(map[string]*squashfs.Node{"dir": writeDirNode(map[string]*squashfs.Node{name: n})})
	}
	loop := writeDirNode(map[string]*squashfs.Node{})
	loop.Children["loop"] = loop
	twice := writeDirNode(map[string]*squashfs.Node{})
	other, err := squashfs.NewWriter(&memoryImage{}, squashfs.WriterOptions{})
	must(t, err)
	defer other.Close()
	foreign := writeFileNode(t, other, []byte("foreign"))
	ids := writeDirNode(map[string]*squashfs.Node{})
	for i := range 1 << 16 {
		ids.Children[fmt.Sprint(i)] = &squashfs.Node{Mode: unix.S_IFREG, UID: uint32(i)}
	}
	for _, c := range []struct {
		want string
		root *squashfs.Node
	}{
		{"root is not a directory", nil},
		{"root is not a directory", file()},
		{`/dir: name "" is`, in("", file())},
		{`/dir: name "." is`, in(".", file())},
		{`/dir: name ".." is`, in("..", file())},
		{`/dir: name "a/b" is`, in("a/b", file())},
		{`/dir: name "a\x00" is`, in("a\x00", file())},
		{`of 257 bytes: at most 256`, in(strings.Repeat("x", 257), file())},
		{"/dir/x: no node", in("x", nil)},
		{"/dir/x: mode 0644 has no known file type", in("x", &squashfs.Node{Mode: 0o644})},
		{"/dir/x: symbolic link to a name of 0 bytes", in("x", &squashfs.Node{Mode: unix.S_IFLNK})},
		{"of 65536 bytes", in("x", &squashfs.Node{Mode: unix.S_IFLNK, Target: strings.Repeat("x", 65536)})},
		{"/dir/x: device 4096:0", in("x", &squashfs.Node{Mode: unix.S_IFCHR, Rdev: unix.Mkdev(4096, 0)})},
		{"/dir/x: content is of another writer", in("x", foreign)},
		{" /loop: directory has another name already: /", loop},
		{" /b: directory has another name already: /a", writeDirNode(map[string]*squashfs.Node{"a": twice, "b": twice})},
		{"more than 65535 different user and group ids", ids},
	} {
		w, err := squashfs.NewWriter(&memoryImage{}, squashfs.WriterOptions{Workers: 1})
		must(t, err)
		if _, err := w.Finish(c.root); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got error %v, want one with %q", err, c.want)
		}
		must(t, w.Close())
	}
}

func TestWriterNamesDroppedXattrs(t *testing.T) {
	w, err := squashfs.NewWriter(&memoryImage{}, squashfs.WriterOptions{})
	must(t, err)
	defer w.Close()
	root := writeDirNode(nil)
	long := "user." + strings.Repeat("x", 300)
	for _, name := range []string{"system.posix_acl_default", "user.kept", "", "user.", "odd", long} {
		root.Xattrs = append(root.Xattrs, squashfs.Xattr{Name: name})
	}
	root.Xattrs = append(root.Xattrs, squashfs.Xattr{Name: "user.huge", Value: make([]byte, 65537)})
	_, err = w.Finish(root)
	must(t, err)
	want := fmt.Sprintf("%q", []string{"", "odd", "system.posix_acl_default", "user.", "user.huge", long})
	if got := fmt.Sprintf("%q", w.DroppedXattrs()); got != want {
		t.Errorf("dropped %s, want %s", got, want)
	}
}

func TestWriterIsUsedOnce(t *testing.T) {
	w, err := squashfs.NewWriter(&memoryImage{}, squashfs.WriterOptions{})
	must(t, err)
	_, err = w.Finish(writeDirNode(nil))
	must(t, err)
	if _, err := w.Finish(writeDirNode(nil)); err == nil {
		t.Error("finished twice")
	}
	if _, err := w.WriteData(strings.NewReader("x"), 1); err == nil {
		t.Error("took content after the end")
	}
	must(t, w.Close())
	w, err = squashfs.NewWriter(&memoryImage{}, squashfs.WriterOptions{})
	must(t, err)
	must(t, w.Close())
	if _, err := w.Finish(writeDirNode(nil)); err == nil {
		t.Error("finished after it was closed")
	}
}
