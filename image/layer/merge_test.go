package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// lower is a base image in small.
func lower() []file {
	return []file{
		e("./"), e("etc/"), f("etc/passwd", "root"), f("etc/group", "grp"), e("usr/"), e("usr/lib/"), f("usr/lib/old", "old"),
		e("lib -> usr/lib"), e("var/"), e("var/log/"), f("var/log/a", "A"), f("var/log/b", "B"),
	}
}

func TestMerge(t *testing.T) {
	for name, test := range map[string]struct {
		layers [][]file
		want   string
	}{
		"one layer": {
			[][]file{{e("a/"), f("a/x", "1"), f("empty", ""), e("s -> a/x"), e("h => a/x")}},
			"a/; a/x: 1; empty: EMPTY; h = a/x; s -> a/x",
		},
		"names with dots and slashes": {
			[][]file{{e("./"), e("./a/"), f("/a/x", "1"), f("././a//y", "2"), e("/h => ./a//x")}},
			"a/; a/x: 1; a/y: 2; h = a/x",
		},
		"whiteout": {
			[][]file{{e("a/"), f("a/x", "1"), f("a/y", "2")}, {e("a/"), e("a/.wh.x")}},
			"a/; a/y: 2",
		},
		"whiteout of a directory": {
			[][]file{{e("a/"), f("a/x", "1"), f("b", "2")}, {e(".wh.a")}},
			"b: 2",
		},
		"whiteout of nothing": {
			[][]file{{f("b", "2")}, {e(".wh.a"), e("c/.wh.x")}},
			"b: 2; c/",
		},
		"whiteout does not touch its own layer": {
			[][]file{{e("a/"), f("a/x", "1"), f("a/z", "z")}, {e("a/"), f("a/x", "2"), e("a/.wh.x")}},
			"a/; a/x: 2; a/z: z",
		},
		"whiteout and new directory": {
			[][]file{{e("a/"), f("a/x", "1")}, {e(".wh.a"), e("a/"), f("a/y", "2")}},
			"a/; a/y: 2",
		},
		"whiteout and new directory that the layer does not mention": {
			[][]file{{e("a/"), f("a/x", "1")}, {f("a/y", "2"), e(".wh.a")}},
			"a/; a/y: 2",
		},
		"file comes back above a whiteout": {
			[][]file{{f("x", "1")}, {e(".wh.x")}, {f("x", "3")}},
			"x: 3",
		},
		"opaque directory": {
			[][]file{{e("a/"), f("a/x", "1"), e("a/sub/"), f("a/sub/y", "2")}, {e("a/"), f("a/z", "3"), e("a/.wh..wh..opq")}},
			"a/; a/z: 3",
		},
		"opaque directory that the layer does not mention": {
			[][]file{{e("a/"), f("a/x", "1")}, {e("a/.wh..wh..opq")}},
			"a/",
		},
		"opaque root": {
			[][]file{{f("x", "1"), e("a/"), f("a/y", "2")}, {e(".wh..wh..opq"), f("z", "3")}},
			"z: 3",
		},
		"opaque new directory": {
			[][]file{{f("x", "1")}, {e("n/"), e("n/.wh..wh..opq"), f("n/y", "2")}},
			"n/; n/y: 2; x: 1",
		},
		"files of AUFS are no files": {
			[][]file{{f("x", "1"), e(".wh..wh.plnk/"), f(".wh..wh.plnk/1.2", "p"), f(".wh..wh.aufs", "q"), e(".wh..wh.orph/")}},
			"x: 1",
		},
		"names with .wh. inside": {
			[][]file{{f("a.wh.b", "1"), f(".whx", "2")}},
			".whx: 2; a.wh.b: 1",
		},
		"directory over file": {
			[][]file{{f("a", "1")}, {e("a/"), f("a/x", "2")}},
			"a/; a/x: 2",
		},
		"file over directory": {
			[][]file{{e("a/"), f("a/x", "1"), e("a/b/")}, {f("a", "2")}},
			"a: 2",
		},
		"symbolic link over directory": {
			[][]file{{e("a/"), f("a/x", "1"), e("b/")}, {e("a -> b")}},
			"a -> b; b/",
		},
		"directory over file, file over directory, directory again": {
			[][]file{{f("a", "1")}, {e("a/"), f("a/x", "2")}, {f("a", "3")}, {e("a/"), f("a/y", "4")}},
			"a/; a/y: 4",
		},
		"parents that no layer mentions": {
			[][]file{{f("a/b/c/x", "1")}},
			"a/; a/b/; a/b/c/; a/b/c/x: 1",
		},
		"last of one name": {
			[][]file{{f("x", "1"), f("x", "2"), e("a/"), f("a/y", "3"), f("a", "4")}},
			"a: 4; x: 2",
		},
		"directory twice keeps its files": {
			[][]file{{e("a/"), f("a/x", "1"), e("a/")}},
			"a/; a/x: 1",
		},
		"below a lower symbolic link": {
			[][]file{lower(), {f("lib/new", "N"), f("lib/old", "O")}},
			"etc/; etc/group: grp; etc/passwd: root; lib -> usr/lib; usr/; usr/lib/; usr/lib/new: N; usr/lib/old: O; " +
				"var/; var/log/; var/log/a: A; var/log/b: B",
		},
		"whiteout below a lower symbolic link": {
			[][]file{{e("usr/"), e("usr/lib/"), f("usr/lib/old", "old"), f("usr/lib/o2", "o2"), e("lib -> usr/lib")}, {e("lib/.wh.old")}},
			"lib -> usr/lib; usr/; usr/lib/; usr/lib/o2: o2",
		},
		"opaque below a lower symbolic link": {
			[][]file{{e("usr/"), e("usr/lib/"), f("usr/lib/old", "old"), e("lib -> usr/lib")}, {e("lib/.wh..wh..opq"), f("lib/x", "1")}},
			"lib -> usr/lib; usr/; usr/lib/; usr/lib/x: 1",
		},
		"directory replaces a lower symbolic link": {
			[][]file{{e("usr/"), e("usr/lib/"), f("usr/lib/old", "old"), e("lib -> usr/lib")}, {e("lib/"), f("lib/x", "1")}},
			"lib/; lib/x: 1; usr/; usr/lib/; usr/lib/old: old",
		},
		"lower symbolic link that leads nowhere": {
			[][]file{{e("run -> /var/run")}, {f("run/x", "1")}},
			"run -> /var/run; var/; var/run/; var/run/x: 1",
		},
		"lower symbolic link out of the root stays inside": {
			[][]file{{e("s -> ../../../t/u")}, {f("s/x", "1")}},
			"s -> ../../../t/u; t/; t/u/; t/u/x: 1",
		},
		"symbolic links in a row": {
			[][]file{{e("a -> b/c"), e("b -> /d"), e("d/"), e("d/c/")}, {f("a/x", "1")}},
			"a -> b/c; b -> /d; d/; d/c/; d/c/x: 1",
		},
		"hard links in a layer": {
			[][]file{{f("a", "1"), e("b => a"), e("c => b")}},
			"a: 1; b = a; c = a",
		},
		"hard link before its target": {
			[][]file{{e("b => z"), e("c => b"), f("z", "1")}},
			"b: 1; c = b; z = b",
		},
		"hard link to a lower file": {
			[][]file{{f("a", "1")}, {e("b => a")}},
			"a: 1; b = a",
		},
		"hard link to a lower file that its layer replaces": {
			[][]file{{f("a", "1"), f("z", "z")}, {e("b => z"), e(".wh.z")}, {f("a", "3")}},
			"a: 3; b: z",
		},
		"hard link to a file that is replaced above": {
			[][]file{{f("a", "1")}, {e("b => a")}, {f("a", "3")}},
			"a: 3; b: 1",
		},
		"hard link of the same layer to a file that is replaced above": {
			[][]file{{f("a", "1"), e("b => a")}, {f("a", "3")}},
			"a: 3; b: 1",
		},
		"hard link of the same layer to a file that is removed above": {
			[][]file{{e("d/"), f("d/a", "1"), e("b => d/a")}, {e(".wh.d")}},
			"b: 1",
		},
		"hard link keeps the content that a later entry replaces": {
			[][]file{{f("a", "1"), e("b => a"), f("a", "2")}},
			"a: 2; b: 1",
		},
		"hard link through a lower symbolic link": {
			[][]file{{e("usr/"), e("usr/lib/"), f("usr/lib/x", "1"), e("lib -> usr/lib")}, {e("y => lib/x")}},
			"lib -> usr/lib; usr/; usr/lib/; usr/lib/x: 1; y = usr/lib/x",
		},
		"hard link to a file that a lower symbolic link puts elsewhere": {
			[][]file{{e("usr/"), e("usr/lib/"), e("lib -> usr/lib")}, {f("lib/x", "1"), e("y => usr/lib/x")}},
			"lib -> usr/lib; usr/; usr/lib/; usr/lib/x: 1; y = usr/lib/x",
		},
		"hard link to a symbolic link": {
			[][]file{{e("s -> t"), e("h => s")}},
			"h -> t; s = h",
		},
		"hard link to itself, as GNU tar writes a file named twice": {
			[][]file{{f("a", "1"), e("a => a")}},
			"a: 1",
		},
		"path that two layers reach by different symbolic links": {
			[][]file{
				{e("one/"), e("two/"), e("s -> one")},
				{f("s/x", "1")},
				{e("s -> two")},
				{f("s/x", "2")},
			},
			"one/; one/x: 1; s -> two; two/; two/x: 2",
		},
		"special files": {
			[][]file{{
				{name: "c", typ: tar.TypeChar, major: 5, minor: 1}, {name: "b", typ: tar.TypeBlock, major: 259, minor: 70000},
				{name: "p", typ: tar.TypeFifo},
			}},
			"b: 60000 259:70000; c: 20000 5:1; p: 10000 0:0",
		},
		"names that are long or not ASCII": {
			[][]file{{f(strings.Repeat("long/", 60)+"é\xff\xfe", "1")}},
			strings.Join(longDirs(60), "; ") + "; " + strings.Repeat("long/", 60) + "é\xff\xfe: 1",
		},
		"nothing": {[][]file{{}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root, store := merged(t, layers(t, test.layers...))
			if diff := cmp.Diff(test.want, strings.Join(list(root, store), "; ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func longDirs(n int) (dirs []string) {
	for i := range n {
		dirs = append(dirs, strings.Repeat("long/", i+1))
	}
	return dirs
}

func TestMergeRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		layers [][]file
		want   string // in the message, beside the layer's name
	}{
		"dots":                        {[][]file{{f("a/../../x", "1")}}, `entry "a/../../x"`},
		"dots that stay inside":       {[][]file{{f("a/../x", "1")}}, `".."`},
		"absolute with dots":          {[][]file{{f("/../etc/passwd", "1")}}, `".."`},
		"hard link with dots":         {[][]file{{e("a => ../../etc/passwd")}}, `".."`},
		"hard link to nothing":        {[][]file{{e("a => b")}}, `entry "a": hard link to "b"`},
		"hard link to a directory":    {[][]file{{e("d/"), e("a => d")}}, "directory"},
		"hard link to a lower dir":    {[][]file{{e("d/")}, {e("a => d")}}, "directory"},
		"hard link to the root":       {[][]file{{e("a => /")}}, "directory"},
		"hard links in a circle":      {[][]file{{e("a => b"), e("b => a")}}, "hard link"},
		"below a symbolic link":       {[][]file{{e("s -> /etc"), f("s/passwd", "1")}}, `entry "s/passwd": is below "s", which this layer makes a symbolic link`},
		"below a file":                {[][]file{{f("s", "1"), f("s/passwd", "1")}}, `which this layer makes a file`},
		"below a hard link":           {[][]file{{f("a", "1"), e("s => a"), f("s/x", "1")}}, `which this layer makes a hard link`},
		"below a lower file":          {[][]file{{f("s", "1")}, {f("s/x", "1")}}, `entry "s/x"`},
		"below a lower loop":          {[][]file{{e("s -> t"), e("t -> s")}, {f("s/x", "1")}}, `entry "s/x"`},
		"below a link to a file":      {[][]file{{e("s -> t"), f("t", "1")}, {f("s/x", "1")}}, `entry "s/x"`},
		"below a whiteout":            {[][]file{{f(".wh.a/x", "1")}}, "below a whiteout"},
		"whiteout of nothing":         {[][]file{{f("a/.wh.", "")}}, "whiteout names no file"},
		"whiteout of the directory":   {[][]file{{f("a/.wh..", "")}}, "whiteout names no file"},
		"whiteout of its parent":      {[][]file{{f("a/.wh...", "")}}, "whiteout names no file"},
		"root that is no directory":   {[][]file{{e("./ -> x")}}, "the root is a symbolic link"},
		"symbolic link without aim":   {[][]file{{{name: "s", typ: tar.TypeSymlink}}}, "symbolic link"},
		"unknown type":                {[][]file{{{name: "x", typ: 'Z'}}}, "type 'Z'"},
		"part of a name too long":     {[][]file{{f(strings.Repeat("x", 256), "")}}, "256 bytes"},
		"name too long":               {[][]file{{f(strings.Repeat("x/", 2100), "")}}, "4200 bytes"},
		"opaque mark below a symlink": {[][]file{{e("s -> t"), f("s/.wh..wh..opq", "")}}, "which this layer makes a symbolic link"},
		"owner":                       {[][]file{{{name: "x", uid: 1 << 33}}}, "owner"},
		"xattr with bad base64":       {[][]file{{{name: "x", pax: map[string]string{"LIBARCHIVE.xattr.user.x": "!"}}}}, "extended attribute"},
	} {
		t.Run(name, func(t *testing.T) {
			all := layers(t, test.layers...)
			root, err := Merge(context.Background(), all, &memory{}, Options{})
			if err == nil {
				t.Fatalf("merged to %v", list(root, &memory{}))
			}
			bad := fmt.Sprint("layer layer", len(all)-1)
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), bad) {
				t.Errorf("%v\ndoes not tell of %q and %q", err, test.want, bad)
			}
		})
	}
}

func TestMergeKeepsAttributes(t *testing.T) {
	root, _ := merged(t, layers(t, []file{
		{name: "./", mode: 0o1777, uid: 3, mtime: 77},
		{name: "d/", mode: 0o700, uid: 1, gid: 2, mtime: 5},
		{name: "d/sub/x", mode: 0o6755, uid: 4000000000, gid: 2097152, mtime: -3},
		{name: "s -> x", mode: 0o1, mtime: 9},
		{name: "acl", pax: map[string]string{
			"SCHILY.xattr.user.b":              "\x00\xffbin",
			"SCHILY.xattr.security.capability": "cap",
			"LIBARCHIVE.xattr.user.b":          "AAAA",
			"LIBARCHIVE.xattr.user.%63":        "Yw==",
			"SCHILY.acl.access":                "user::rw-",
			"LIBARCHIVE.xattr.trusted.d":       "ZA",
		}},
	}, []file{{name: "d/", mode: 0o711, uid: 8, gid: 9, mtime: 6, pax: map[string]string{"SCHILY.xattr.user.u": "v"}}}))
	check := func(name string, mode, uid, gid uint32, mtime int64) *squashfs.Node {
		t.Helper()
		n, err := Lookup(root, name)
		if err != nil {
			t.Fatal(err)
		}
		if n.Mode != mode || n.UID != uid || n.GID != gid || n.ModTime != mtime {
			t.Errorf("%s: mode %o, owner %d:%d, time %d", name, n.Mode, n.UID, n.GID, n.ModTime)
		}
		return n
	}
	check("/", unix.S_IFDIR|0o1777, 3, 0, 77)
	d := check("d", unix.S_IFDIR|0o711, 8, 9, 6) // of the topmost layer that has it
	if diff := cmp.Diff([]squashfs.Xattr{{Name: "user.u", Value: []byte("v")}}, d.Xattrs); diff != "" {
		t.Error(diff)
	}
	check("d/sub", unix.S_IFDIR|0o755, 0, 0, 0)
	check("d/sub/x", unix.S_IFREG|0o6755, 4000000000, 2097152, -3)
	check("s", unix.S_IFLNK|0o777, 0, 0, 9)
	acl := check("acl", unix.S_IFREG|0o644, 0, 0, 0)
	want := []squashfs.Xattr{
		{Name: "security.capability", Value: []byte("cap")}, {Name: "trusted.d", Value: []byte("d")},
		{Name: "user.b", Value: []byte("\x00\xffbin")}, {Name: "user.c", Value: []byte("c")},
	}
	if diff := cmp.Diff(want, acl.Xattrs); diff != "" {
		t.Error(diff)
	}
}

// What upper layers hide is not stored; and what is stored is so from the top
// layer down, in each archive's order.
func TestMergeStoresVisibleContentOnly(t *testing.T) {
	_, store := merged(t, layers(t,
		[]file{f("a", "a0"), f("b", "b0"), e("d/"), f("d/x", "x0"), e("o/"), f("o/x", "ox0"), f("g", "g0"), f("w", "w0")},
		[]file{f("b", "b1"), e(".wh.d"), e("o/"), e("o/.wh..wh..opq"), f("o/y", "oy1"), f("w", "w1")},
		[]file{f("a", "a2"), f("c", "c2"), e(".wh.w")},
	))
	if diff := cmp.Diff([]string{"a2", "c2", "b1", "oy1", "g0"}, store.order); diff != "" {
		t.Error(diff)
	}
}

// A hard link of an upper layer announces that hidden content is needed.
func TestMergeStoresWantedContentAtOnce(t *testing.T) {
	all := layers(t, []file{f("a", "a0"), f("b", "b0")}, []file{e("l => a")}, []file{f("a", "a2")})
	opened := 0
	open := all[0].Open
	all[0].Open = func() (io.ReadCloser, error) { opened++; return open() }
	root, store := merged(t, all)
	if diff := cmp.Diff([]string{"a2", "a0", "b0"}, store.order); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a: a2", "b: b0", "l: a0"}, list(root, store)); diff != "" {
		t.Error(diff)
	}
	if opened != 1 {
		t.Errorf("layer was read %d times", opened)
	}
}

func TestMergeIsTheSameWithAnyNumberOfWorkers(t *testing.T) {
	var lists [][]file
	for i := range 12 {
		var files []file
		for j := range 40 {
			files = append(files, f(fmt.Sprintf("d%d/f%d", j%5, (i*7+j)%60), strings.Repeat(fmt.Sprint(i, ",", j, ";"), 1+j*j*20)))
		}
		lists = append(lists, files)
	}
	all := layers(t, lists...)
	var orders, trees [][]string
	for _, workers := range []int{1, 2, 16} {
		store := &memory{}
		root, err := Merge(context.Background(), all, store, Options{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		orders = append(orders, store.order)
		trees = append(trees, list(root, store))
	}
	for i := 1; i < len(orders); i++ {
		if !slices.Equal(orders[0], orders[i]) || !slices.Equal(trees[0], trees[i]) {
			t.Error("results differ")
		}
	}
}

func TestMergeReportsProgress(t *testing.T) {
	all := layers(t, lower(), []file{f("x", strings.Repeat("y", 1<<20))})
	total := make(chan int64, 1000)
	if _, err := Merge(context.Background(), all, &memory{}, Options{Progress: func(n int64) { total <- n }}); err != nil {
		t.Fatal(err)
	}
	close(total)
	var sum int64
	for n := range total {
		sum += n
	}
	if want := all[0].Size + all[1].Size; sum != want {
		t.Errorf("told of %d bytes of %d", sum, want)
	}
}

func TestMergeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	all := layers(t, lower(), []file{f("x", strings.Repeat("y", 1<<20))}, lower())
	open := all[0].Open
	all[0].Open = func() (io.ReadCloser, error) { cancel(); return open() }
	if _, err := Merge(ctx, all, &memory{}, Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestMergeNamesTheCauseOfAFailure(t *testing.T) {
	all := layers(t, lower())
	all[0].Open = func() (io.ReadCloser, error) { return nil, os.ErrPermission }
	if _, err := Merge(context.Background(), all, &memory{}, Options{}); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
	all = layers(t, lower())
	if _, err := Merge(context.Background(), all, fullStore{}, Options{}); !errors.Is(err, unix.ENOSPC) ||
		!strings.Contains(err.Error(), `entry "etc/passwd": store content: no space left on device`) {
		t.Error(err)
	}
}

type fullStore struct{}

func (fullStore) WriteData(io.Reader, int64) (*squashfs.Data, error) { return nil, unix.ENOSPC }
