package fusefs

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// TestDamagedBlockFailsItsReadersOnly breaks one data block: its file gives
// EIO, the rest of that file and all others stay readable.
func TestDamagedBlockFailsItsReadersOnly(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 4*128<<10)
	rand.NewChaCha8([32]byte{2}).Read(content)
	for i := range content {
		content[i] = content[i]%16 + 'a' // to be compressed
	}
	write(t, dir+"/broken", string(content))
	write(t, dir+"/whole", "whole")
	image := pack(t, dir, squashfs.WriterOptions{Compression: squashfs.Gzip})
	packed, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	// The first file's first block follows the superblock; every compressed
	// block is about 64 KiB long, so this is within the second.
	for i := 100 << 10; i < 100<<10+64; i++ {
		packed[i] ^= 0x55
	}
	if err := os.WriteFile(image, packed, 0o644); err != nil {
		t.Fatal(err)
	}
	m := mountImage(t, image, Config{})
	if _, err := os.ReadFile(m.dir + "/broken"); !errorIs(err, unix.EIO) {
		t.Errorf("read of the broken file: %v, want %v", err, unix.EIO)
	}
	f, err := os.Open(m.dir + "/broken")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	good := 0
	for i := range 4 {
		block := make([]byte, 128<<10)
		if _, err := f.ReadAt(block, int64(i*len(block))); err == nil {
			good++
			if !bytes.Equal(block, content[i*len(block):][:len(block)]) {
				t.Errorf("block %d reads something else", i)
			}
		}
	}
	if good != 3 {
		t.Errorf("%d of 4 blocks can be read, want 3", good)
	}
	if b, err := os.ReadFile(m.dir + "/whole"); string(b) != "whole" || err != nil {
		t.Errorf("the whole file: %q, %v", b, err)
	}
	if f, _ := fileFacts(t, m.dir+"/whole"); f.Size != 5 {
		t.Errorf("%+v", f)
	}
}

// TestServerOutlivesFlippedBytes walks images with damage anywhere. Nothing is
// expected of them but that the server answers and ends with its mount.
func TestServerOutlivesFlippedBytes(t *testing.T) {
	needsFUSE(t)
	dir := t.TempDir()
	for i := range 300 {
		write(t, fmt.Sprintf("%s/%d/%d", dir, i%7, i), strings.Repeat(fmt.Sprint(i), i*10))
	}
	os.Symlink("somewhere", dir+"/link")
	image := pack(t, dir, squashfs.WriterOptions{Compression: squashfs.Gzip, BlockSize: 4 << 10})
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 12 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			broken := bytes.Clone(whole)
			for range 1 + rng.IntN(6) {
				broken[96+rng.IntN(len(broken)-96)] ^= byte(1 + rng.IntN(255))
			}
			name := filepath.Join(t.TempDir(), "broken.sqfs")
			if err := os.WriteFile(name, broken, 0o644); err != nil {
				t.Fatal(err)
			}
			m := mountUntil(t, name, Config{Entries: []Entry{{Path: "/3/made", Mode: unix.S_IFDIR | 0o755}}})
			filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					os.ReadFile(path)
				}
				unix.Listxattr(path, make([]byte, 100))
				return nil
			})
			m.unmount(t)
			m.wait(t) // New may have refused the image: that is an answer, too
		})
	}
}

// TestManyReadersAtOnce has a kernel's worth of requests in flight; with the
// race detector it watches the server, which is the same binary.
func TestManyReadersAtOnce(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range 80 {
		content := make([]byte, rng.IntN(300<<10))
		for j := range content {
			content[j] = byte(rng.IntN(5)) + 'a'
		}
		write(t, fmt.Sprintf("%s/%d/%d", dir, i%10, i), string(content))
	}
	m := mountImage(t, pack(t, dir, squashfs.WriterOptions{}), Config{Entries: []Entry{{Path: "/1/made/deep", Mode: unix.S_IFDIR | 0o755}}})
	want := treeFacts(t, dir)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
				name, _ := filepath.Rel(m.dir, path)
				if err != nil {
					t.Error(err)
				} else if f, _ := fileFacts(t, path); want[name].Content != f.Content {
					t.Errorf("%s reads something else", name)
				}
				return nil
			})
		})
	}
	wg.Wait()
}
