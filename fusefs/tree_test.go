package fusefs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// TestMountShowsWhatWasPacked packs a directory by mksquashfs and compares
// what the mount shows with the directory, file by file.
func TestMountShowsWhatWasPacked(t *testing.T) {
	dir := sampleTree(t)
	for _, flags := range [][]string{
		{"-comp", "gzip", "-Xcompression-level", "1"},
		{"-comp", "zstd", "-b", "4K"},
		{"-comp", "gzip", "-Xcompression-level", "1", "-b", "1M", "-always-use-fragments"},
		{"-noI", "-noD", "-noF", "-noX", "-no-fragments", "-no-exports"},
	} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			m := mountImage(t, mksquashfs(t, dir, flags...), Config{TrustedXattrs: initialNamespace()})
			compareTrees(t, dir, m.dir)
		})
	}
	t.Run("our writer", func(t *testing.T) {
		m := mountImage(t, pack(t, dir, squashfs.WriterOptions{}), Config{TrustedXattrs: initialNamespace()})
		compareTrees(t, dir, m.dir)
	})
}

// sampleTree makes a directory with every kind of file that can be made here.
func sampleTree(t *testing.T) string {
	dir := t.TempDir()
	rng := rand.NewChaCha8([32]byte{1})
	for _, size := range []int{0, 1, 4095, 4096, 4097, 128<<10 - 1, 128 << 10, 128<<10 + 1, 1<<20 + 77, 5 << 20} {
		content := make([]byte, size)
		rng.Read(content)
		if size%2 == 0 { // something to compress
			for i := range content {
				content[i] = content[i]%4 + 'a'
			}
		}
		write(t, fmt.Sprintf("%s/files/%d", dir, size), string(content))
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sparse, err := os.Create(dir + "/files/sparse")
	check(err)
	_, err = sparse.WriteAt([]byte("end"), 3<<20)
	check(err)
	check(sparse.Close())
	for i := range 1500 {
		write(t, fmt.Sprintf("%s/many/file-%04d", dir, i*7), fmt.Sprint(i))
	}
	for i := range 40 {
		check(os.MkdirAll(fmt.Sprintf("%s/dirs/%02d/below", dir, i), 0o755))
	}
	write(t, dir+"/names/"+strings.Repeat("n", 255), "long")
	write(t, dir+"/names/été 名前\n\x01\xff", "strange")
	check(os.MkdirAll(dir+"/links", 0o755))
	check(os.Symlink("../files/4096", dir+"/links/relative"))
	check(os.Symlink("/"+strings.Repeat("t", 4000), dir+"/links/long"))
	check(os.Symlink("absent", dir+"/links/dangling"))
	check(os.Link(dir+"/files/4097", dir+"/links/hard"))
	check(os.Link(dir+"/files/4097", dir+"/dirs/hard"))
	check(unix.Mkfifo(dir+"/fifo", 0o620))
	check(unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o755, 0))
	check(unix.Mknod(dir+"/whiteout", unix.S_IFCHR, 0))
	for i, mode := range []uint32{0o4755, 0o2755, 0o1777, 0o000, 0o640} {
		name := fmt.Sprintf("%s/modes/%o", dir, mode)
		write(t, name, strings.Repeat("x", i))
		check(unix.Chmod(name, mode))
	}
	for _, x := range []string{"user.plain", "user.empty", "user.long"} {
		value := map[string][]byte{"user.plain": []byte("value"), "user.long": bytes.Repeat([]byte("v"), 3000)}[x]
		if err := unix.Lsetxattr(dir+"/files/1", x, value, 0); err != nil && err != unix.EOPNOTSUPP {
			t.Fatal(err)
		}
		unix.Lsetxattr(dir+"/dirs", x, value, 0)
	}
	if initialNamespace() {
		check(unix.Mknod(dir+"/char", unix.S_IFCHR|0o666, int(unix.Mkdev(240, 0x12345))))
		check(unix.Mknod(dir+"/block", unix.S_IFBLK|0o660, int(unix.Mkdev(4000, 7))))
		check(os.Lchown(dir+"/links/dangling", 12345, 70000))
		check(os.Lchown(dir+"/files/1", 1000, 100))
		unix.Lsetxattr(dir+"/files/1", "trusted.kept", []byte("t"), 0)
		// cap_net_raw=ep, as ping has it.
		check(unix.Lsetxattr(dir+"/files/4095", "security.capability",
			[]byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	}
	setTimes(t, dir)
	return dir
}

// setTimes gives each file a time of its own, within the format's range.
func setTimes(t *testing.T, dir string) {
	when := int64(1)
	filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		when = (when*48271 + 11) % (1 << 31)
		at := unix.NsecToTimespec(time.Unix(when, 0).UnixNano())
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
		return nil
	})
}

// facts is what a test can see of a file.
type facts struct {
	Mode     string
	UID, GID uint32
	Size     int64 // not of directories
	Links    uint64
	Time     int64
	Rdev     uint64
	Target   string
	Content  [sha256.Size]byte
	Xattrs   map[string]string
	Same     string // the first path with the same inode
}

func treeFacts(t testing.TB, root string) map[string]facts {
	t.Helper()
	all, inodes := map[string]facts{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path, _ := filepath.Rel(root, name)
		f, ino := fileFacts(t, name)
		if inodes[ino] == "" {
			inodes[ino] = path
		}
		f.Same = inodes[ino]
		all[path] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func fileFacts(t testing.TB, name string) (facts, uint64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Fatal(name, err)
	}
	f := facts{Mode: fmt.Sprintf("%o", st.Mode), UID: st.Uid, GID: st.Gid, Size: st.Size, Links: st.Nlink, Time: st.Mtim.Sec,
		Rdev: st.Rdev, Xattrs: xattrs(t, name)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		f.Size = 0
	case unix.S_IFLNK:
		f.Target, _ = os.Readlink(name)
	case unix.S_IFREG:
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f.Content = sha256.Sum256(content)
	}
	return f, st.Ino
}

func xattrs(t testing.TB, name string) map[string]string {
	t.Helper()
	list, value := make([]byte, 64<<10), make([]byte, 64<<10)
	n, err := unix.Llistxattr(name, list)
	if err == unix.EOPNOTSUPP {
		return nil
	}
	if err != nil {
		t.Fatal(name, err)
	}
	all := map[string]string{}
	for _, x := range strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 }) {
		m, err := unix.Lgetxattr(name, x, value)
		if err != nil {
			t.Fatalf("%s lists %s and does not have it: %v", name, x, err)
		}
		if strings.HasPrefix(x, "user.") || strings.HasPrefix(x, "trusted.") || x == "security.capability" {
			all[x] = string(value[:m])
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

func compareTrees(t *testing.T, want, got string) {
	t.Helper()
	if diff := cmp.Diff(treeFacts(t, want), treeFacts(t, got)); diff != "" {
		t.Errorf("the mount differs from what was packed (-want +got):\n%s", diff)
	}
}

// TestOwnerIsPresented shows every file as one user's.
func TestOwnerIsPresented(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/file", "x")
	m := mountImage(t, mksquashfs(t, dir, "-force-uid", "1234", "-force-gid", "4321"),
		Config{Owner: &[2]int{0, 0}, Entries: []Entry{{Path: "/made/file", Mode: unix.S_IFREG | 0o600}}})
	for path, f := range treeFacts(t, m.dir) {
		if f.UID != 0 || f.GID != 0 {
			t.Errorf("%s belongs to %d:%d", path, f.UID, f.GID)
		}
	}
}

// TestDevicesFromPseudoFiles works without the privilege to make devices.
func TestDevicesFromPseudoFiles(t *testing.T) {
	m := mountImage(t, mksquashfs(t, t.TempDir(),
		"-p", "c c 666 0 0 1 3", "-p", "b b 640 0 0 259 1048575", "-p", "high c 600 0 0 4095 256"), Config{})
	for name, want := range map[string]uint64{"c": unix.Mkdev(1, 3), "b": unix.Mkdev(259, 1048575), "high": unix.Mkdev(4095, 256)} {
		if f, _ := fileFacts(t, m.dir+"/"+name); f.Rdev != want {
			t.Errorf("%s is device %#x, want %#x", name, f.Rdev, want)
		}
	}
}

// TestXattrCallsStopWithoutAny tells the kernel once that the image has none.
func TestXattrCallsStopWithoutAny(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "x")
	m := mountImage(t, pack(t, dir, squashfs.WriterOptions{}), Config{})
	if _, err := unix.Getxattr(m.dir+"/file", "user.x", nil); err != unix.EOPNOTSUPP {
		t.Errorf("getxattr: %v, want %v", err, unix.EOPNOTSUPP)
	}
	if n, err := unix.Listxattr(m.dir+"/file", nil); n > 0 || err != nil && err != unix.EOPNOTSUPP {
		t.Errorf("listxattr: %d, %v", n, err)
	}
}

// TestXattrSizes asks with every size of buffer that changes the answer.
func TestXattrSizes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "x")
	err := unix.Setxattr(dir+"/file", "user.name", []byte("12345"), 0)
	needs(t, "user xattrs in the temporary directory", err == nil)
	m := mountImage(t, pack(t, dir, squashfs.WriterOptions{}), Config{})
	for size, want := range map[int]error{0: nil, 4: unix.ERANGE, 5: nil, 6: nil} {
		n, err := unix.Getxattr(m.dir+"/file", "user.name", make([]byte, size))
		if err != want || err == nil && n != 5 {
			t.Errorf("getxattr with %d bytes: %d, %v", size, n, err)
		}
	}
	for size, want := range map[int]error{0: nil, 9: unix.ERANGE, 10: nil, 100: nil} {
		n, err := unix.Listxattr(m.dir+"/file", make([]byte, size))
		if err != want || err == nil && n != 10 {
			t.Errorf("listxattr with %d bytes: %d, %v", size, n, err)
		}
	}
	if _, err := unix.Getxattr(m.dir+"/file", "user.absent", nil); err != unix.ENODATA {
		t.Errorf("absent attribute: %v", err)
	}
}

func TestStatfsTellsTheImagesSize(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", strings.Repeat("content", 100000))
	image := pack(t, dir, squashfs.WriterOptions{})
	m := mountImage(t, image, Config{})
	var st unix.Statfs_t
	if err := unix.Statfs(m.dir, &st); err != nil {
		t.Fatal(err)
	}
	info, _ := os.Stat(image)
	if st.Bsize != 128<<10 || int64(st.Blocks) != (info.Size()+st.Bsize-1)/st.Bsize || st.Bfree != 0 || st.Files != 2 || st.Namelen != 256 {
		t.Errorf("statfs: %+v", st)
	}
}

// TestChangesAreRefused mounts without the kernel's own protection, so that
// each call reaches the server.
func TestChangesAreRefused(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "x")
	write(t, dir+"/dir/below", "x")
	m := mountImage(t, pack(t, dir, squashfs.WriterOptions{}), Config{})
	if err := unix.Mount("", m.dir, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Fatal("remount writable:", err)
	}
	file := m.dir + "/file"
	open := func(flags int) error {
		fd, err := unix.Open(m.dir+"/new", flags, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	calls := map[string]func() error{
		"create": func() error { return open(unix.O_CREAT | unix.O_RDWR | unix.O_EXCL) },
		"tmpfile": func() error {
			fd, err := unix.Open(m.dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
			unix.Close(fd)
			return err
		},
		"write":       func() error { return os.WriteFile(file, []byte("y"), 0o644) },
		"mkdir":       func() error { return unix.Mkdir(m.dir+"/new", 0o755) },
		"mknod":       func() error { return unix.Mknod(m.dir+"/new", unix.S_IFIFO|0o600, 0) },
		"unlink":      func() error { return unix.Unlink(file) },
		"rmdir":       func() error { return unix.Rmdir(m.dir + "/dir") },
		"rename":      func() error { return unix.Rename(file, m.dir+"/new") },
		"link":        func() error { return unix.Link(file, m.dir+"/new") },
		"symlink":     func() error { return unix.Symlink("x", m.dir+"/new") },
		"chmod":       func() error { return unix.Chmod(file, 0o600) },
		"chown":       func() error { return unix.Chown(file, 0, 0) },
		"truncate":    func() error { return unix.Truncate(file, 0) },
		"utimes":      func() error { return os.Chtimes(file, time.Now(), time.Now()) },
		"setxattr":    func() error { return unix.Setxattr(file, "user.x", []byte("y"), 0) },
		"removexattr": func() error { return unix.Removexattr(file, "user.x") },
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range calls {
			if !yield(n) {
				return
			}
		}
	}) {
		if err := calls[name](); !errorIs(err, unix.EROFS) {
			t.Errorf("%s: %v, want %v", name, err, unix.EROFS)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "x" || err != nil {
		t.Errorf("the file is now %q, %v", b, err)
	}
}
