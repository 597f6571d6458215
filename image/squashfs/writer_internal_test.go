package squashfs

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWriterBeyond4GiB writes content that lies behind the first 4 GiB of an
// image, of which the file system stores next to nothing.
func TestWriterBeyond4GiB(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "img.sqfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := NewWriter(f, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.pipe.pos = 5 << 30
	content := map[string][]byte{
		"blocks": bytes.Repeat([]byte("more than a block. "), 20_000),
		"small":  []byte("in a fragment"),
	}
	root := &Node{Mode: unix.S_IFDIR | 0o755, Children: map[string]*Node{}}
	for _, name := range []string{"blocks", "small"} {
		d, err := w.WriteData(bytes.NewReader(content[name]), int64(len(content[name])))
		if err != nil {
			t.Fatal(err)
		}
		root.Children[name] = &Node{Mode: unix.S_IFREG | 0o644, Data: d}
	}
	size, err := w.Finish(root)
	if err != nil || size < 5<<30 {
		t.Fatalf("size %d, %v", size, err)
	}
	r, err := NewReader(f, size, ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range content {
		file, err := r.FS().Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: read %d bytes, %v", name, len(got), err)
		}
	}
}

// TestCompressorsForget compresses blocks in two orders: a worker gets whatever
// comes, and must make the same of it.
func TestCompressorsForget(t *testing.T) {
	var blocks [][]byte
	for i := range 20 {
		block := bytes.Repeat([]byte("some words that come again, number "), 200*i+1)
		for j := range block {
			if j%(7+i) == 0 {
				block[j] = byte(j * i >> 3)
			}
		}
		blocks = append(blocks, block[:min(len(block), defaultBlockSize)])
	}
	for _, o := range []WriterOptions{{Level: 1}, {}, {Level: 6}, {Level: 12},
		{Compression: Gzip, Level: 1}, {Compression: Gzip}, {Compression: Gzip, Level: 9}} {
		if err := o.complete(); err != nil {
			t.Fatal(err)
		}
		used, err := newWriteCompressor(o)
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(blocks) {
			block := blocks[i*7%len(blocks)]
			fresh, err := newWriteCompressor(o)
			if err != nil {
				t.Fatal(err)
			}
			want, err := fresh.compress(nil, block)
			if err != nil {
				t.Fatal(err)
			}
			got, err := used.compress(nil, block)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v level %d: block %d of %d bytes: %v, or not what a new compressor makes of it",
					o.Compression, o.Level, i, len(block), err)
			}
		}
	}
}

func TestDirectoryRuns(t *testing.T) {
	entries := func(n int, change func(i int, in *writeInode)) []writeEntry {
		list := make([]writeEntry, n)
		for i := range list {
			list[i] = writeEntry{"name", &writeInode{node: &Node{}, number: uint32(i + 1)}}
			change(i, list[i].inode)
		}
		return list
	}
	nothing := func(int, *writeInode) {}
	for _, c := range []struct {
		name    string
		entries []writeEntry
		room    int
		want    int
	}{
		{"few", entries(5, nothing), 1 << 30, 5},
		{"full", entries(256, nothing), 1 << 30, 256},
		{"more than a header counts", entries(257, nothing), 1 << 30, 256},
		{"another metadata block", entries(9, func(i int, in *writeInode) {
			if i >= 4 {
				in.ref = 1 << 16
			}
		}), 1 << 30, 4},
		{"numbers just near enough", entries(2, func(i int, in *writeInode) { in.number = 1 + uint32(i)*32767 }), 1 << 30, 2},
		{"numbers too far", entries(2, func(i int, in *writeInode) { in.number = 1 + uint32(i)*32768 }), 1 << 30, 1},
		{"numbers just near enough below", entries(2, func(i int, in *writeInode) { in.number = 40000 - uint32(i)*32768 }), 1 << 30, 2},
		{"numbers too far below", entries(2, func(i int, in *writeInode) { in.number = 40000 - uint32(i)*32769 }), 1 << 30, 1},
		{"end of the block", entries(9, nothing), dirHeaderSize + 3*(dirEntrySize+4), 3},
		{"just over the end of the block", entries(9, nothing), dirHeaderSize + 3*(dirEntrySize+4) + 1, 4},
		{"no room at all", entries(9, nothing), 1, 1},
	} {
		if got := dirRun(c.entries, c.room); got != c.want {
			t.Errorf("%s: run of %d, want %d", c.name, got, c.want)
		}
	}
}
