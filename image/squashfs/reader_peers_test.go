package squashfs_test

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coracle-runtime/coracle/image/squashfs"
	peer "github.com/sylabs/squashfs"
	"golang.org/x/sys/unix"
)

// TestReaderAgreesWithSylabs reads one image with sylabs/squashfs, which shares
// no code with us, and with ours.
func TestReaderAgreesWithSylabs(t *testing.T) {
	needs(t, "mksquashfs")
	dir := sourceTree(t)
	// It gives up at some types and names, and reads no hole at a file's end.
	for _, name := range []string{"fifo", "socket", "names", "hole"} {
		must(t, os.RemoveAll(filepath.Join(dir, name)))
	}
	for _, options := range []string{"-comp gzip -Xcompression-level 1 -b 64K", "-comp zstd -Xcompression-level 1"} {
		path := mksquashfs(t, dir, strings.Fields(options)...)
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		theirs, err := peer.NewReader(f)
		must(t, err)
		ours := openImage(t, path, squashfs.ReaderOptions{}).FS()
		seen := 0
		must(t, fs.WalkDir(theirs, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			seen++
			got, err := fs.Lstat(ours, name)
			if err != nil {
				return err
			}
			want, err := d.Info()
			if err != nil {
				return err
			}
			if got.Mode().Type() != want.Mode().Type() || got.Mode().Perm() != want.Mode().Perm() || !got.ModTime().Equal(want.ModTime()) {
				t.Errorf("%s: %v %v, want %v %v", name, got.Mode(), got.ModTime(), want.Mode(), want.ModTime())
			}
			if !d.Type().IsRegular() {
				return nil
			}
			a, err := fs.ReadFile(ours, name)
			if err != nil {
				return err
			}
			b, err := fs.ReadFile(theirs, name)
			if err != nil {
				return err
			}
			if string(a) != string(b) {
				t.Errorf("%s: contents differ", name)
			}
			return nil
		}))
		if seen < 100 {
			t.Errorf("saw %d files only", seen)
		}
	}
}

// TestReaderReadsTar2sqfs reads what the other writer, squashfs-tools-ng, makes.
func TestReaderReadsTar2sqfs(t *testing.T) {
	needs(t, "tar2sqfs")
	needs(t, "tar")
	dir := sourceTree(t)
	must(t, os.Remove(filepath.Join(dir, "socket"))) // tar has none
	for _, options := range []string{"-c zstd -X level=1", "-c lz4 -b 1M", "-c gzip -X level=1 -b 8K -x -e"} {
		img := filepath.Join(t.TempDir(), "img")
		script := fmt.Sprintf("tar -C %s -cf - --sort=name . | tar2sqfs -q -f %s %s", dir, options, img)
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		want, got := dirFacts(t, dir), readerFacts(t, openImage(t, img, squashfs.ReaderOptions{}))
		for _, m := range []map[string]facts{want, got} {
			for name, f := range m { // it counts directories' links its own way, and leaves the root's attributes out
				if f.Mode&0o170000 == 0o040000 {
					f.Nlink = 0
				}
				m[name] = f
			}
			delete(m, "")
		}
		compareFacts(t, want, got)
	}
}

// TestReaderAgreesWithKernel compares with a loop mount.
func TestReaderAgreesWithKernel(t *testing.T) {
	needsRoot(t, "to mount")
	needs(t, "mount")
	dir := sourceTree(t)
	for _, options := range []string{"-comp zstd -Xcompression-level 1", "-comp gzip -b 8K -Xcompression-level 1"} {
		img := mksquashfs(t, dir, append(strings.Fields(options), "-p", "dev c 666 1 2 300 70000")...)
		mnt := t.TempDir()
		if out, err := exec.Command("mount", "-t", "squashfs", "-o", "loop,ro", img, mnt).CombinedOutput(); err != nil {
			lacks(t, "a kernel that mounts squashfs: "+string(out))
		}
		t.Cleanup(func() { must(t, exec.Command("umount", mnt).Run()) })
		want, got := dirFacts(t, mnt), readerFacts(t, openImage(t, img, squashfs.ReaderOptions{}))
		compareFacts(t, want, got)
		compareOrder(t, mnt, openImage(t, img, squashfs.ReaderOptions{}))
		compareBlocks(t, mnt, openImage(t, img, squashfs.ReaderOptions{}))
	}
}

// compareOrder checks that directories are listed in the kernel's order, so
// that programs see the same through any mount.
func compareOrder(t *testing.T, mnt string, r *squashfs.Reader) {
	t.Helper()
	f, err := os.Open(filepath.Join(mnt, "small"))
	must(t, err)
	defer f.Close()
	want, err := f.Readdirnames(-1)
	must(t, err)
	list, err := fs.ReadDir(r.FS(), "small")
	must(t, err)
	var got []string
	for _, d := range list {
		got = append(got, d.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("listed %v, the kernel %v", got, want)
	}
}

// compareBlocks checks what du(1) will say.
func compareBlocks(t *testing.T, mnt string, r *squashfs.Reader) {
	t.Helper()
	for _, name := range []string{"empty", "one", "text/4097", "sparse", "hole", "endhole", "dangling", "deep"} {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(mnt, name), &st))
		info, err := fs.Lstat(r.FS(), name)
		must(t, err)
		if got := info.Sys().(*squashfs.Inode).Blocks(); got != uint64(st.Blocks) {
			t.Errorf("%s has %d blocks, by the kernel %d", name, got, st.Blocks)
		}
	}
}

// TestReaderAgreesWithUnsquashfs compares contents with what unsquashfs prints.
func TestReaderAgreesWithUnsquashfs(t *testing.T) {
	needs(t, "unsquashfs")
	img := mksquashfs(t, sourceTree(t), "-comp", "lzo", "-b", "32K")
	r := openImage(t, img, squashfs.ReaderOptions{ReadAhead: true})
	for _, name := range []string{"text/1048581", "noise/131073", "sparse", "hole", "endhole", "empty", "small/149-" + strings.Repeat("x", 59)} {
		want, err := exec.Command("unsquashfs", "-cat", img, name).Output()
		must(t, err)
		f, err := r.FS().Open(name)
		must(t, err)
		got, err := io.ReadAll(f)
		must(t, err)
		if string(got) != string(want) {
			t.Errorf("%s: contents differ", name)
		}
	}
}
