package squashfs_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "make testdata anew with mksquashfs, as root")

// smallImages are in testdata, so that they can be read where nothing but Go
// is installed: the options mksquashfs made them with.
var smallImages = map[string]string{
	"gzip":  "-comp gzip -b 4K",
	"zstd":  "-comp zstd -Xcompression-level 19",
	"lz4":   "-comp lz4 -b 4K",
	"xz":    "-comp xz -b 8K -no-exports",
	"lzo":   "-comp lzo -b 16K -always-use-fragments",
	"plain": "-noI -noD -noF -noX -b 4K",
	"whole": "-comp gzip -b 4K -no-fragments -noX",
}

const smallFacts = "testdata/facts.json"

// smallTree makes the tree behind testdata: little of everything, and of what
// stands in metadata more.
func smallTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(7, 7))
	for name, size := range map[string]int{"empty": 0, "tiny": 10, "page": 4096, "text": 10000, "sub/deep/file": 700} {
		p := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, words(rand.New(rand.NewPCG(uint64(size), 1)), size), 0o640))
	}
	must(t, os.WriteFile(filepath.Join(dir, "noise"), noise(rnd, 1500), 0o600))
	sparse(t, filepath.Join(dir, "sparse"), 70001, map[int64]string{30000: "island"})
	must(t, os.Link(filepath.Join(dir, "text"), filepath.Join(dir, "hard")))
	must(t, os.Symlink("text", filepath.Join(dir, "link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o700, 0))
	must(t, unix.Mknod(filepath.Join(dir, "char"), unix.S_IFCHR|0o600, int(unix.Mkdev(5, 300))))
	must(t, unix.Mknod(filepath.Join(dir, "block"), unix.S_IFBLK|0o600, int(unix.Mkdev(300, 5))))
	must(t, os.Mkdir(filepath.Join(dir, "many"), 0o755))
	for i := range 100 { // so much that it takes a directory index
		must(t, os.Link(filepath.Join(dir, "page"), filepath.Join(dir, "many", fmt.Sprintf("%03d-%s", i, strings.Repeat("n", 90)))))
	}
	for _, name := range []string{"tiny", "text", "noise", "sub"} {
		must(t, unix.Setxattr(filepath.Join(dir, name), "user.shared", bytes.Repeat([]byte("value"), 50), 0))
		must(t, unix.Setxattr(filepath.Join(dir, name), "security.own", []byte(name), 0))
	}
	must(t, unix.Lsetxattr(filepath.Join(dir, "link"), "trusted.link", nil, 0))
	must(t, os.Lchown(filepath.Join(dir, "page"), 1000, 70000))
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		times := []unix.Timespec{{Sec: 1700000000}, {Sec: 1700000000}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW))
		return err
	}))
	return dir
}

func updateSmallImages(t *testing.T) {
	dir := smallTree(t)
	must(t, os.MkdirAll("testdata", 0o755))
	for name, options := range smallImages {
		args := append([]string{dir, "testdata/" + name + ".sqfs", "-noappend", "-quiet", "-no-progress", "-nopad",
			"-mkfs-time", "1700000000"}, strings.Fields(options)...)
		if out, err := exec.Command("mksquashfs", args...).CombinedOutput(); err != nil {
			t.Fatalf("mksquashfs %v: %v\n%s", args, err, out)
		}
	}
	text, err := json.Marshal(dirFacts(t, dir))
	must(t, err)
	must(t, os.WriteFile(smallFacts, bytes.ReplaceAll(text, []byte(`},"`), []byte("},\n\"")), 0o644))
}

func smallImage(t testing.TB, name string) []byte {
	t.Helper()
	img, err := os.ReadFile("testdata/" + name + ".sqfs")
	must(t, err)
	return img
}

func TestReaderSmallImages(t *testing.T) {
	if *update {
		updateSmallImages(t)
	}
	text, err := os.ReadFile(smallFacts)
	must(t, err)
	for name := range smallImages {
		t.Run(name, func(t *testing.T) {
			var want map[string]facts
			must(t, json.Unmarshal(text, &want))
			img := smallImage(t, name)
			r, err := squashfs.NewReader(bytes.NewReader(img), int64(len(img)), squashfs.ReaderOptions{})
			must(t, err)
			compareFacts(t, want, readerFacts(t, r))
		})
	}
}

// survive reads all of an image that may be hostile, within limits, and
// reports whether there was no error.
func survive(t testing.TB, img []byte) bool {
	t.Helper()
	start, before := time.Now(), allocated()
	good := surviveWalk(img)
	if got := (allocated() - before) >> 20; got > 64 {
		t.Errorf("allocated %d MiB", got)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	return good
}

// allocated returns the bytes allocated so far, without stopping the world as
// runtime.ReadMemStats does.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func surviveWalk(img []byte) bool {
	r, err := squashfs.NewReader(bytes.NewReader(img), int64(len(img)), squashfs.ReaderOptions{CacheBytes: 1 << 20})
	if err != nil {
		return false
	}
	good, budget := true, 3000
	buf := make([]byte, 64<<10)
	note := func(err error) {
		if err != nil && err != io.EOF {
			good = false
		}
	}
	seen := map[squashfs.Ref]bool{}
	var walk func(ref squashfs.Ref)
	walk = func(ref squashfs.Ref) {
		if budget--; budget < 0 || seen[ref] {
			return
		}
		seen[ref] = true
		in, err := r.Inode(ref)
		if err != nil {
			good = false
			return
		}
		_, err = r.Xattrs(in)
		note(err)
		switch {
		case in.IsSymlink():
			_, err = r.Readlink(in)
			note(err)
		case in.IsRegular():
			for _, off := range []uint64{0, 4000, in.Size / 2, in.Size - min(in.Size, 5000)} {
				_, err = r.ReadAt(in, buf, int64(off))
				note(err)
			}
		case in.IsDir():
			var last squashfs.Dirent
			note(r.ReadDir(in, 0, func(d squashfs.Dirent, _ int) bool {
				last = d
				walk(d.Ref)
				return budget > 0
			}))
			_, err = r.Lookup(in, last.Name)
			note(err)
		}
	}
	walk(r.Root())
	for n := uint32(1); n < min(r.Info().Inodes, 10); n++ {
		if r.Info().Exportable {
			_, err := r.Exported(n)
			note(err)
		}
	}
	return good
}

// TestReaderSurvivesFlippedBytes flips the bytes of all metadata, one by one.
func TestReaderSurvivesFlippedBytes(t *testing.T) {
	for name := range smallImages {
		t.Run(name, func(t *testing.T) {
			img := smallImage(t, name)
			if !survive(t, img) {
				t.Fatal("the image is not even good unharmed")
			}
			bad, step := 0, 1
			if testing.Short() || raceEnabled {
				step = 17
			}
			tables := int(uint32(img[64]) | uint32(img[65])<<8 | uint32(img[66])<<16) // the inode table's place
			for i := 0; i < len(img); i += step {
				if i == 96 {
					i = tables
				}
				flip := []byte{0xff, 1, 0x80}[i%3]
				img[i] ^= flip
				if !survive(t, img) {
					bad++
				}
				img[i] ^= flip
				if t.Failed() {
					t.Fatalf("byte %d", i)
				}
			}
			if bad == 0 {
				t.Error("no flip was noticed")
			}
		})
	}
}

func TestReaderRefusesTruncatedImages(t *testing.T) {
	for name := range smallImages {
		img := smallImage(t, name)
		used := int(uint32(img[40]) | uint32(img[41])<<8 | uint32(img[42])<<16)
		for n := 0; n < used; n += 1 + n/500 {
			if _, err := squashfs.NewReader(bytes.NewReader(img[:n]), int64(n), squashfs.ReaderOptions{}); err == nil {
				t.Fatalf("%s: took %d bytes of %d", name, n, used)
			}
			// The size may be right when the file is opened, and wrong later.
			r, err := squashfs.NewReader(bytes.NewReader(img[:n]), int64(len(img)), squashfs.ReaderOptions{})
			if err != nil {
				continue
			}
			if _, err := fs.ReadFile(r.FS(), "text"); err == nil {
				t.Fatalf("%s: read a file from %d bytes of %d", name, n, used)
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	for name := range smallImages {
		f.Add(smallImage(f, name))
	}
	f.Fuzz(func(t *testing.T, img []byte) { survive(t, img) })
}
