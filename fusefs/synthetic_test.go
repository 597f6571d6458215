package fusefs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

func errorIs(err, target error) bool { return errors.Is(err, target) }

// names lists a directory in the order of the kernel's answers.
func names(t testing.TB, dir string) []string {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := f.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestEntriesArePresented(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/etc/passwd", "from the image")
	write(t, dir+"/etc/issue", "from the image")
	write(t, dir+"/usr/lib/os-release", "from the image")
	write(t, dir+"/opt/tool/a", "from the image")
	write(t, dir+"/opt/tool/b", "from the image")
	if err := os.Chmod(dir+"/usr", 0o711); err != nil {
		t.Fatal(err)
	}
	reg, link, folder := uint32(unix.S_IFREG), uint32(unix.S_IFLNK), uint32(unix.S_IFDIR)
	m := mountImage(t, pack(t, dir, squashfs.WriterOptions{}), Config{Entries: []Entry{
		{Path: "/etc/passwd", Mode: reg | 0o600, Content: []byte("made")},
		{Path: "/etc/absent", Mode: reg | 0o644, Content: []byte("also made")},
		{Path: "/home/me/deep/er", Mode: folder | 0o700},
		{Path: "/home/me", Mode: folder | 0o750},
		{Path: "/usr", Mode: folder | 0o700},
		{Path: "/usr/lib/extra", Mode: folder | 0o755},
		{Path: "/opt/tool", Mode: link | 0o777, Content: []byte("elsewhere")},
		{Path: "/etc/passwd", Mode: reg | 0o640, Content: []byte("made later")},
		{Path: "/empty", Mode: reg | 0o444},
	}})
	content := func(path, want string) {
		t.Helper()
		if b, err := os.ReadFile(m.dir + path); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v, want %q", path, b, err, want)
		}
	}
	content("/etc/passwd", "made later")
	content("/etc/absent", "also made")
	content("/etc/issue", "from the image")
	content("/usr/lib/os-release", "from the image")
	content("/empty", "")
	for path, want := range map[string]struct {
		mode, links int
	}{
		"":                 {0o40755, 2 + 4}, // etc, usr, opt and home
		"/etc/passwd":      {0o100640, 1},
		"/home":            {0o40755, 3},
		"/home/me":         {0o40750, 3},
		"/home/me/deep":    {0o40755, 3},
		"/home/me/deep/er": {0o40700, 2},
		"/usr":             {0o40711, 3},
		"/usr/lib":         {0o40755, 3},
		"/opt":             {0o40755, 2},
		"/opt/tool":        {0o120777, 1},
	} {
		if path == "" {
			info, _ := os.Stat(dir)
			want.mode = 0o40000 | int(info.Mode().Perm())
		}
		f, _ := fileFacts(t, m.dir+path)
		if f.Mode != fmt.Sprintf("%o", want.mode) || int(f.Links) != want.links {
			t.Errorf("%q: mode %s, %d links; want %o, %d", path, f.Mode, f.Links, want.mode, want.links)
		}
	}
	if target, _ := os.Readlink(m.dir + "/opt/tool"); target != "elsewhere" {
		t.Errorf("link to %q", target)
	}
	for path, want := range map[string]string{
		"":          "empty etc home opt usr",
		"/etc":      "absent issue passwd",
		"/home":     "me",
		"/usr/lib":  "extra os-release",
		"/opt":      "tool",
		"/home/me":  "deep",
		"/usr/lib/": "extra os-release",
	} {
		got := names(t, m.dir+path)
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%q lists %q, want %q", path, got, want)
		}
	}
}

// TestInodesAreDistinct compares the numbers of READDIR, LOOKUP and "..".
func TestInodesAreDistinct(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/b/c", "x")
	m := mountImage(t, pack(t, dir, squashfs.WriterOptions{}), Config{Entries: []Entry{
		{Path: "/a/b/made/deeper", Mode: unix.S_IFDIR | 0o755},
		{Path: "/a/file", Mode: unix.S_IFREG | 0o644},
	}})
	seen := map[uint64]string{}
	var walk func(path string, parent uint64)
	walk = func(path string, parent uint64) {
		var st unix.Stat_t
		if err := unix.Lstat(m.dir+path, &st); err != nil {
			t.Fatal(err)
		}
		if seen[st.Ino] != "" {
			t.Errorf("%s has the inode number of %s", path, seen[st.Ino])
		}
		seen[st.Ino] = path + "/"
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return
		}
		if path == "" {
			parent = st.Ino
		}
		for _, e := range readDirectory(t, m.dir+path, 4096) {
			want := map[string]uint64{".": st.Ino, "..": parent}[e.name]
			if want == 0 {
				var child unix.Stat_t
				unix.Lstat(m.dir+path+"/"+e.name, &child)
				want = child.Ino
				walk(path+"/"+e.name, st.Ino)
			}
			if e.ino != want {
				t.Errorf("%s lists %q as inode %d, want %d", path, e.name, e.ino, want)
			}
		}
	}
	walk("", 0)
	if len(seen) != 7 {
		t.Errorf("found %v", seen)
	}
}

func TestEntriesThatCannotBeAreRefused(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "x")
	if err := os.Symlink("etc", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	img := openImage(t, pack(t, dir, squashfs.WriterOptions{}))
	long := strings.Repeat("n", 257)
	folder, reg := uint32(unix.S_IFDIR|0o755), uint32(unix.S_IFREG|0o644)
	for name, c := range map[string]struct {
		entries []Entry
		want    string
	}{
		"below a file":       {[]Entry{{Path: "/file/x", Mode: folder}}, "present /file/x: /file: not a directory"},
		"below a link":       {[]Entry{{Path: "/link/x", Mode: reg}}, "present /link/x: /link: not a directory"},
		"below a made file":  {[]Entry{{Path: "/new", Mode: reg}, {Path: "/new/x", Mode: reg}}, "present /new/x: /new: not a directory"},
		"file over made dir": {[]Entry{{Path: "/new/x", Mode: reg}, {Path: "/new", Mode: reg}}, "present /new: /new: is a directory"},
		"relative":           {[]Entry{{Path: "etc", Mode: reg}}, "present etc: not a clean absolute path"},
		"dots":               {[]Entry{{Path: "/a/../b", Mode: reg}}, "present /a/../b: not a clean absolute path"},
		"dot":                {[]Entry{{Path: "/.", Mode: folder}}, "present /.: not a clean absolute path"},
		"empty name":         {[]Entry{{Path: "/a//b", Mode: reg}}, "present /a//b: not a clean absolute path"},
		"nothing":            {[]Entry{{Mode: reg}}, "present : not a clean absolute path"},
		"NUL":                {[]Entry{{Path: "/a\x00b", Mode: reg}}, "present /a\x00b: not a clean absolute path"},
		"long name":          {[]Entry{{Path: "/" + long, Mode: reg}}, "present /" + long + ": /" + long + ": file name too long"},
		"root":               {[]Entry{{Path: "/", Mode: folder}}, "present /: not a clean absolute path"},
		"device":             {[]Entry{{Path: "/d", Mode: unix.S_IFCHR}}, "present /d: file type 020000 cannot be presented"},
	} {
		_, err := New(img, Config{Entries: c.entries})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// dirent is an entry as getdents64(2) tells it.
type dirent struct {
	name string
	ino  uint64
	next int64
}

// readDirectory lists a directory through a buffer of some bytes.
func readDirectory(t testing.TB, dir string, size int) []dirent {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var all []dirent
	for {
		some := getdents(t, fd, size)
		if len(some) == 0 {
			return all
		}
		all = append(all, some...)
	}
}

func getdents(t testing.TB, fd, size int) []dirent {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	var all []dirent
	for buf = buf[:n]; len(buf) > 0; {
		length := int(buf[16]) | int(buf[17])<<8
		name, _, _ := strings.Cut(string(buf[19:length]), "\x00")
		all = append(all, dirent{name, le64(buf), int64(le64(buf[8:]))})
		buf = buf[length:]
	}
	return all
}

func le64(b []byte) (v uint64) {
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

// TestDirectoryPositionsStay lists a merged directory of 1300 files in pieces,
// and comes back to each position, in any order.
func TestDirectoryPositionsStay(t *testing.T) {
	dir := t.TempDir()
	var entries []Entry
	want := []string{".", ".."}
	for i := range 1200 {
		write(t, fmt.Sprintf("%s/many/image-%d", dir, i), "")
		want = append(want, fmt.Sprintf("image-%d", i))
	}
	for i := range 100 {
		entries = append(entries, Entry{Path: fmt.Sprintf("/many/made-%d", i), Mode: unix.S_IFREG | 0o644})
		want = append(want, fmt.Sprintf("made-%d", i))
	}
	for i := range 20 { // hidden
		entries = append(entries, Entry{Path: fmt.Sprintf("/many/image-%d", 7*i), Mode: unix.S_IFDIR | 0o755})
	}
	m := mountImage(t, pack(t, dir, squashfs.WriterOptions{}), Config{Entries: entries})
	slices.Sort(want)
	all := readDirectory(t, m.dir+"/many", 64<<10)
	for _, size := range []int{64, 300, 4096, 64 << 10} {
		var got []string
		for _, e := range readDirectory(t, m.dir+"/many", size) {
			got = append(got, e.name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("in pieces of %d bytes: %d names, want %d", size, len(got), len(want))
		}
	}
	fd, err := unix.Open(m.dir+"/many", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for i := len(all) - 2; i >= 0; i -= 13 {
		if _, err := unix.Seek(fd, all[i].next, 0); err != nil {
			t.Fatal(err)
		}
		if got := getdents(t, fd, 512); len(got) == 0 || got[0] != all[i+1] {
			t.Fatalf("behind %v comes %v, want %v", all[i], got, all[i+1])
		}
	}
	if _, err := unix.Seek(fd, all[len(all)-1].next, 0); err != nil {
		t.Fatal(err)
	}
	if got := getdents(t, fd, 512); len(got) != 0 {
		t.Errorf("behind the last comes %v", got)
	}
}
