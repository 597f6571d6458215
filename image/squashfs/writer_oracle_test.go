package squashfs_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

// treeWriter builds trees and remembers what is in their files.
type treeWriter struct {
	t       testing.TB
	w       *squashfs.Writer
	content map[*squashfs.Data]string // digests
	modest  bool                      // no more than an ext4 file system takes
}

func (b *treeWriter) file(content []byte) *squashfs.Node {
	n := writeFileNode(b.t, b.w, content)
	b.content[n.Data] = fmt.Sprintf("%x", sha256.Sum256(content))
	return n
}

func (b *treeWriter) node(mode uint32) *squashfs.Node {
	return &squashfs.Node{Mode: mode, ModTime: 1_600_000_000}
}

func (b *treeWriter) symlink(target string) *squashfs.Node {
	n := b.node(unix.S_IFLNK | 0o777)
	n.Target = target
	return n
}

// facts are what a reader of the image should find.
func (b *treeWriter) facts(root *squashfs.Node) map[string]facts {
	names := map[*squashfs.Node]uint32{}
	all := map[string]facts{}
	var count func(n *squashfs.Node)
	count = func(n *squashfs.Node) {
		if names[n]++; names[n] == 1 {
			for _, c := range n.Children {
				count(c)
			}
		}
	}
	count(root)
	var walk func(name string, n *squashfs.Node)
	walk = func(name string, n *squashfs.Node) {
		f := facts{Mode: n.Mode, UID: n.UID, GID: n.GID, Nlink: names[n], Rdev: n.Rdev,
			ModTime: min(max(n.ModTime, 0), math.MaxUint32)}
		for _, x := range n.Xattrs {
			if !strings.HasPrefix(x.Name, "system.") {
				f.Xattrs = append(f.Xattrs, x)
			}
		}
		switch n.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			f.Content = fmt.Sprintf("%x", sha256.Sum256(nil))
			if n.Data != nil {
				f.Size, f.Content = uint64(n.Data.Size()), b.content[n.Data]
			}
		case unix.S_IFLNK:
			f.Size, f.Content = uint64(len(n.Target)), n.Target
		case unix.S_IFDIR:
			f.Nlink = 2
			for _, c := range n.Children {
				if c.Mode&unix.S_IFMT == unix.S_IFDIR {
					f.Nlink++
				}
			}
		}
		all[name] = f
		for child, c := range n.Children {
			walk(name+"/"+child, c)
		}
	}
	walk("", root)
	return all
}

// torture is a tree with everything that the format can hold and a tar layer
// can bring.
func (b *treeWriter) torture() *squashfs.Node {
	dir := func() *squashfs.Node { return writeDirNode(map[string]*squashfs.Node{}) }
	root := dir()
	b.addSamples(root, dir())
	b.addSpecials(root)
	b.addXattrs(root)

	shared := b.file(prose(70, 200_000))
	root.Children["hard1"], root.Children["hard2"] = shared, shared
	links := dir()
	links.Children["hard3"] = shared
	root.Children["links"] = links
	fifo := b.node(unix.S_IFIFO | 0o600)
	links.Children["fifo1"], links.Children["fifo2"] = fifo, fifo
	link := b.symlink("somewhere")
	links.Children["link1"], links.Children["link2"] = link, link

	names := dir()
	root.Children["names"] = names
	for _, name := range []string{strings.Repeat("n", 255), "ünï cödé 中文", "bad\xff\xfeutf8", "new\nline", "-dash", " ", "...", "A", "a", "~"} {
		names.Children[name] = b.file([]byte(name))
	}
	deep := root
	for i := range 60 {
		next := dir()
		deep.Children[fmt.Sprintf("level %d", i)] = next
		deep = next
	}
	deep.Children["bottom"] = b.file([]byte("deep"))
	root.Children["empty dir"] = dir()
	sticky := dir()
	sticky.Mode |= 0o7022
	root.Children["sticky"] = sticky
	many := dir()
	root.Children["many"] = many
	for i := range 3000 {
		many.Children[fmt.Sprintf("file with a longish name %05d", i)] = b.file(prose(uint64(i%50), i%97))
	}
	return root
}

func (b *treeWriter) addSamples(root, samples *squashfs.Node) {
	root.Children["samples"] = samples
	contents := sampleContents()
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		samples.Children[name] = b.file(contents[name])
	}
	nothing := b.node(unix.S_IFREG | 0o4755)
	samples.Children["no data"] = nothing
}

func (b *treeWriter) addSpecials(root *squashfs.Node) {
	specials := writeDirNode(map[string]*squashfs.Node{})
	root.Children["specials"] = specials
	device := func(mode uint32, major, minor uint32) *squashfs.Node {
		n := b.node(mode)
		n.Rdev = unix.Mkdev(major, minor)
		return n
	}
	specials.Children["null"] = device(unix.S_IFCHR|0o666, 1, 3)
	specials.Children["whiteout"] = device(unix.S_IFCHR, 0, 0)
	specials.Children["sda"] = device(unix.S_IFBLK|0o660, 8, 1)
	specials.Children["large numbers"] = device(unix.S_IFBLK|0o600, 4095, 1048575)
	specials.Children["fifo"] = b.node(unix.S_IFIFO | 0o644)
	specials.Children["socket"] = b.node(unix.S_IFSOCK | 0o755)
	specials.Children["link"] = b.symlink("../names/ünï cödé 中文")
	specials.Children["long link"] = b.symlink(strings.Repeat("long/", 800) + "x")
	for i, id := range []uint32{1, 999, 65534, 65535, 65536, 100000, math.MaxUint32 - 1} {
		n := b.file([]byte("owned"))
		n.UID, n.GID = id, id/2
		n.ModTime = []int64{-5, 0, 1, math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32, math.MaxUint32 + 1}[i]
		specials.Children[fmt.Sprint("id ", id)] = n
	}
}

func (b *treeWriter) addXattrs(root *squashfs.Node) {
	long := bytes.Repeat([]byte("shared value "), 40)
	dir := writeDirNode(map[string]*squashfs.Node{})
	root.Children["xattrs"] = dir
	for i := range 40 {
		n := b.file([]byte{byte(i)})
		n.Xattrs = []squashfs.Xattr{{Name: "user.number", Value: []byte(fmt.Sprint(i % 20))}, {Name: "user.long", Value: long},
			{Name: "security.thing", Value: []byte{1, 2, 0, 3}}, {Name: "user.empty", Value: []byte{}}}
		dir.Children[fmt.Sprint(i)] = n
	}
	for kind, mode := range map[string]uint32{"dir": unix.S_IFDIR, "fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK,
		"char": unix.S_IFCHR, "block": unix.S_IFBLK, "link": unix.S_IFLNK} {
		n := b.node(mode | 0o600)
		n.Target = "x"
		n.Xattrs = []squashfs.Xattr{{Name: "trusted.kind", Value: []byte(kind)}}
		dir.Children[kind] = n
	}
	dir.Children["link"].Mode |= 0o777
	acl := b.file([]byte("acl"))
	acl.Xattrs = []squashfs.Xattr{{Name: "system.posix_acl_access", Value: []byte{2, 0, 0, 0}}}
	dir.Children["acl"] = acl
	if !b.modest {
		large := b.file([]byte("large"))
		large.Xattrs = []squashfs.Xattr{{Name: "user.large", Value: static(1, 64<<10)}}
		dir.Children["large"] = large
	}
	root.Xattrs = []squashfs.Xattr{{Name: "trusted.overlay.opaque", Value: []byte("y")}}
}

// writeTorture makes an image file of the torture tree and what is in it.
func writeTorture(t testing.TB, o squashfs.WriterOptions) (image string, want map[string]facts) {
	t.Helper()
	return writeTree(t, o, (*treeWriter).torture)
}

func writeTree(t testing.TB, o squashfs.WriterOptions, build func(*treeWriter) *squashfs.Node) (image string, want map[string]facts) {
	t.Helper()
	b := writeImage(t, o, func(w *squashfs.Writer) *squashfs.Node {
		tree := &treeWriter{t: t, w: w, content: map[*squashfs.Data]string{}}
		root := build(tree)
		want = tree.facts(root)
		return root
	})
	image = filepath.Join(t.TempDir(), "img.sqfs")
	must(t, os.WriteFile(image, b, 0o644))
	return image, want
}

var writerOptions = map[string]squashfs.WriterOptions{
	"zstd":    {ModTime: time.Unix(1_500_000_000, 0)},
	"gzip":    {Compression: squashfs.Gzip},
	"zstd 4K": {BlockSize: 4096},
	"gzip 1M": {Compression: squashfs.Gzip, BlockSize: 1 << 20, Level: 1},
}

func TestWriterTreeReadByReader(t *testing.T) {
	for name, o := range writerOptions {
		t.Run(name, func(t *testing.T) {
			image, want := writeTorture(t, o)
			r := openImage(t, image, squashfs.ReaderOptions{})
			compareFacts(t, want, readerFacts(t, r))
			checkNumbers(t, r)
		})
	}
}

// checkNumbers checks the export table and the parents of directories.
func checkNumbers(t *testing.T, r *squashfs.Reader) {
	t.Helper()
	seen := map[uint32]squashfs.Ref{}
	var walk func(ref squashfs.Ref, parent uint32)
	walk = func(ref squashfs.Ref, parent uint32) {
		in, err := r.Inode(ref)
		must(t, err)
		seen[in.Number] = ref
		if exported, err := r.Exported(in.Number); err != nil || exported != ref {
			t.Errorf("inode %d is exported as %#x, %v; it is at %#x", in.Number, exported, err, ref)
		}
		if !in.IsDir() {
			return
		}
		if got := r.Parent(in); got != parent {
			t.Errorf("directory %d has parent %d, want %d", in.Number, got, parent)
		}
		must(t, r.ReadDir(in, 0, func(d squashfs.Dirent, _ int) bool {
			walk(d.Ref, in.Number)
			return true
		}))
	}
	count := uint32(r.Info().Inodes)
	walk(r.Root(), count) // the root is its own parent, and comes last
	if len(seen) != int(count) {
		t.Errorf("%d inodes of %d have a name", len(seen), count)
	}
	for n := range count {
		if _, ok := seen[n+1]; !ok {
			t.Errorf("no inode has number %d", n+1)
		}
	}
}

func TestWriterTreeExtractedByUnsquashfs(t *testing.T) {
	needs(t, "unsquashfs")
	needsRoot(t, "to own files")
	for name, o := range writerOptions {
		t.Run(name, func(t *testing.T) {
			image, want := writeTree(t, o, func(b *treeWriter) *squashfs.Node {
				b.modest = true
				return b.torture()
			})
			dir := filepath.Join(t.TempDir(), "out")
			out, err := exec.Command("unsquashfs", "-quiet", "-no-progress", "-processors", "1", "-d", dir, image).CombinedOutput()
			if err != nil {
				t.Fatalf("unsquashfs: %v\n%s", err, out)
			}
			got := dirFacts(t, dir)
			for _, m := range []map[string]facts{want, got} {
				for name, f := range m {
					f.ModTime &= math.MaxUint32 >> 1 // the host's file system may not keep more
					m[name] = f
				}
			}
			compareFacts(t, want, got)
		})
	}
}

// mount mounts an image with the kernel's driver.
func mount(t *testing.T, image string) string {
	t.Helper()
	needs(t, "mount")
	needsRoot(t, "to mount")
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "squashfs", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
		for _, reason := range []string{"permission denied", "not permitted", "loop device", "unknown filesystem"} {
			if strings.Contains(string(out), reason) { // in a container, for instance
				lacks(t, "to be able to mount squashfs: "+string(out))
			}
		}
		t.Fatalf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return dir
}

func TestWriterTreeMountedByKernel(t *testing.T) {
	for name, o := range writerOptions {
		t.Run(name, func(t *testing.T) {
			image, want := writeTorture(t, o)
			dir := mount(t, image)
			compareFacts(t, want, dirFacts(t, dir))
			for name, f := range want {
				var st unix.Stat_t
				must(t, unix.Lstat(dir+name, &st)) // by the directory's index
				if st.Mode != f.Mode {
					t.Errorf("%s has mode %o, want %o", name, st.Mode, f.Mode)
				}
			}
		})
	}
}

func TestWriterEmptyTree(t *testing.T) {
	empty := func(*treeWriter) *squashfs.Node { return writeDirNode(nil) }
	image, want := writeTree(t, squashfs.WriterOptions{}, empty)
	compareFacts(t, want, readerFacts(t, openImage(t, image, squashfs.ReaderOptions{})))
	t.Run("kernel", func(t *testing.T) {
		compareFacts(t, want, dirFacts(t, mount(t, image)))
	})
}

func TestWriterBigDirectory(t *testing.T) {
	const n = 70_000
	build := func(b *treeWriter) *squashfs.Node {
		root := writeDirNode(map[string]*squashfs.Node{})
		one := b.symlink("hard")
		for i := range n {
			root.Children[fmt.Sprintf("entry number %d", i)] = b.symlink("x")
			if i%1000 == 0 {
				root.Children[fmt.Sprintf("hard %d", i)] = one // far from its neighbours
			}
		}
		return root
	}
	image, want := writeTree(t, squashfs.WriterOptions{}, build)
	r := openImage(t, image, squashfs.ReaderOptions{})
	compareFacts(t, want, readerFacts(t, r))
	root, err := r.Inode(r.Root())
	must(t, err)
	for name := range want {
		if name != "" {
			if _, err := r.Lookup(root, name[1:]); err != nil {
				t.Fatalf("look up %s: %v", name, err)
			}
		}
	}
	t.Run("kernel", func(t *testing.T) {
		dir := mount(t, image)
		for i, name := range slices.Sorted(maps.Keys(want)) {
			if i%16 != 0 {
				continue // the kernel takes its time
			}
			if _, err := os.Lstat(dir + name); err != nil {
				t.Fatal(err)
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != len(want)-1 {
			t.Errorf("listed %d entries, %v; want %d", len(entries), err, len(want)-1)
		}
	})
}

func TestWriterDeepTree(t *testing.T) {
	const depth = 10_000
	build := func(b *treeWriter) *squashfs.Node {
		n := b.file([]byte("bottom"))
		for range depth {
			n = writeDirNode(map[string]*squashfs.Node{"d": n})
		}
		return n
	}
	b := writeImage(t, squashfs.WriterOptions{}, func(w *squashfs.Writer) *squashfs.Node {
		return build(&treeWriter{t: t, w: w, content: map[*squashfs.Data]string{}})
	})
	r, err := squashfs.NewReader(bytes.NewReader(b), int64(len(b)), squashfs.ReaderOptions{})
	must(t, err)
	ref := r.Root()
	for range depth {
		in, err := r.Inode(ref)
		must(t, err)
		d, err := r.Lookup(in, "d")
		must(t, err)
		ref = d.Ref
	}
	in, err := r.Inode(ref)
	must(t, err)
	if !in.IsRegular() || in.Size != 6 {
		t.Errorf("at the bottom is %+v", in)
	}
}

// TestWriterHugeSparseFile writes one of more than 4 GiB, most of it hole.
func TestWriterHugeSparseFile(t *testing.T) {
	const size = 4<<30 + 300_000
	build := func(w *squashfs.Writer) *squashfs.Node {
		content := io.MultiReader(strings.NewReader("front"), io.LimitReader(zeros{}, size-9), strings.NewReader("back"))
		d, err := w.WriteData(content, size)
		must(t, err)
		return writeDirNode(map[string]*squashfs.Node{"huge": {Mode: unix.S_IFREG | 0o644, Data: d}})
	}
	b := writeImage(t, squashfs.WriterOptions{}, build)
	if len(b) > 8192 {
		t.Errorf("image takes %d bytes", len(b))
	}
	r, err := squashfs.NewReader(bytes.NewReader(b), int64(len(b)), squashfs.ReaderOptions{})
	must(t, err)
	f, err := r.FS().Open("huge")
	must(t, err)
	checkEnds(t, f.(io.ReaderAt), size)
	t.Run("kernel", func(t *testing.T) {
		image := filepath.Join(t.TempDir(), "img.sqfs")
		must(t, os.WriteFile(image, b, 0o644))
		f, err := os.Open(filepath.Join(mount(t, image), "huge"))
		must(t, err)
		defer f.Close()
		checkEnds(t, f, size)
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		if st.Size != size || st.Blocks > 1000 {
			t.Errorf("file has %d bytes in %d blocks", st.Size, st.Blocks)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func checkEnds(t *testing.T, r io.ReaderAt, size int64) {
	t.Helper()
	for off, want := range map[int64]string{0: "front", 5: "\x00\x00", 1 << 32: "\x00\x00", size - 6: "\x00\x00back"} {
		got := make([]byte, len(want))
		if _, err := r.ReadAt(got, off); err != nil && err != io.EOF || string(got) != want {
			t.Errorf("at %d is %q, %v; want %q", off, got, err, want)
		}
	}
}

func TestWriterImageDescribedByUnsquashfs(t *testing.T) {
	needs(t, "unsquashfs")
	for name, want := range map[string][]string{
		"zstd":    {"Compression zstd\n\tcompression-level 3\n", "Block size 131072\n", "exportable", "Number of ids 13\n"},
		"gzip":    {"Compression gzip\n\tcompression-level 6\n\twindow-size 15\n\tStrategies selected: default\n", "1970"},
		"gzip 1M": {"Compression gzip\n\tcompression-level 1\n", "Block size 1048576\n"},
	} {
		image, tree := writeTorture(t, writerOptions[name])
		out, err := exec.Command("unsquashfs", "-stat", image).CombinedOutput()
		if err != nil {
			t.Fatalf("unsquashfs -stat: %v\n%s", err, out)
		}
		for _, s := range want {
			if !strings.Contains(string(out), s) {
				t.Errorf("unsquashfs -stat does not print %q:\n%s", s, out)
			}
		}
		out, err = exec.Command("unsquashfs", "-lln", image).CombinedOutput()
		if err != nil {
			t.Fatalf("unsquashfs -lln: %v\n%s", err, out)
		}
		// A device's large major number comes out negative in version 4.5.
		line := regexp.MustCompile(`(?m)^[-dlcbps][-rwxsStT]{9} \d+/\d+ +[-\d, ]+ [\d-]+ [\d:]+ squashfs-root`)
		if got := len(line.FindAll(out, -1)); got != len(tree) {
			t.Errorf("unsquashfs -lln lists %d files, want %d", got, len(tree))
		}
	}
}
