package layer

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func linkedTree(t *testing.T) (*squashfs.Node, *memory) {
	return merged(t, layers(t, []file{
		e("usr/"), e("usr/lib/"), f("usr/lib/x", "1"), e("lib -> usr/lib"), e("abs -> /usr"), e("up -> ../../usr"),
		e("usr/back -> .."), e("usr/self -> x"), e("usr/lib/rel -> ../lib/x"), f("plain", "p"), e("loop -> loop"), e("gone -> nowhere"),
	}))
}

func TestLookup(t *testing.T) {
	root, _ := linkedTree(t)
	for name, want := range map[string]string{
		"/":                         "/",
		"":                          "/",
		"usr/lib/x":                 "usr/lib/x",
		"/lib/x":                    "usr/lib/x",
		"abs/lib/./x":               "usr/lib/x",
		"up/lib//x":                 "usr/lib/x",
		"lib/../lib/x":              "usr/lib/x",
		"abs/..":                    "/",
		"../../usr":                 "usr",
		"usr/back/usr/back/usr/lib": "usr/lib",
	} {
		got, err := Lookup(root, name)
		if err != nil {
			t.Error(err)
			continue
		}
		n := root
		for _, part := range strings.FieldsFunc(want, func(r rune) bool { return r == '/' }) {
			n = n.Children[part]
		}
		if got != n {
			t.Errorf("%q is not %q", name, want)
		}
	}
	for name, want := range map[string]error{
		"absent": fs.ErrNotExist, "lib/absent": fs.ErrNotExist, "lib/x/y": unix.ENOTDIR, "loop/x": unix.ELOOP,
		"gone/x": fs.ErrNotExist, "lib/x/..": unix.ENOTDIR,
	} {
		if _, err := Lookup(root, name); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if n, err := Lookup(root, "lib"); err != nil || n.Target != "usr/lib" {
		t.Errorf("Lookup followed the last link: %v", err)
	}
}

func TestResolve(t *testing.T) {
	root, _ := linkedTree(t)
	x := root.Children["usr"].Children["lib"].Children["x"]
	for _, name := range []string{"usr/lib/x", "lib/rel", "abs/lib/rel"} {
		if n, err := Resolve(root, name); err != nil || n != x {
			t.Errorf("%q: %v", name, err)
		}
	}
	if n, err := Resolve(root, "usr/back"); err != nil || n != root {
		t.Error(err)
	}
	for name, want := range map[string]error{"gone": fs.ErrNotExist, "loop": unix.ELOOP} {
		if _, err := Resolve(root, name); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestInsert(t *testing.T) {
	root, store := linkedTree(t)
	link := func(target string) *squashfs.Node { return &squashfs.Node{Mode: unix.S_IFLNK | 0o777, Target: target} }
	dir := func(children map[string]*squashfs.Node) *squashfs.Node {
		return &squashfs.Node{Mode: unix.S_IFDIR | 0o711, Children: children}
	}
	for _, step := range []struct {
		name string
		n    *squashfs.Node
	}{
		{"/.singularity.d/env/a", link("1")},
		{"lib/new", link("2")},
		{"lib/x", link("3")},
		{"abs/", link("4")},
		{"usr/lib", dir(map[string]*squashfs.Node{"x": link("5")})},
		{"gone/deep/y", link("6")},
		{"empty", dir(nil)},
		{"empty/z", link("7")},
	} {
		if err := Insert(root, step.name, step.n); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		".singularity.d/", ".singularity.d/env/", ".singularity.d/env/a -> 1", "abs -> 4", "empty/", "empty/z -> 7", "gone -> nowhere",
		"lib -> usr/lib", "loop -> loop", "nowhere/", "nowhere/deep/", "nowhere/deep/y -> 6", "plain: p", "up -> ../../usr",
		"usr/", "usr/back -> ..", "usr/lib/", "usr/lib/new -> 2", "usr/lib/rel -> ../lib/x", "usr/lib/x -> 5", "usr/self -> x",
	}
	if diff := cmp.Diff(want, list(root, store)); diff != "" {
		t.Error(diff)
	}
	if mode := root.Children["usr"].Children["lib"].Mode; mode != unix.S_IFDIR|0o711 {
		t.Errorf("directory kept its mode %o", mode)
	}
	for _, name := range []string{"", "/", "a/..", "plain/y", "loop/y"} {
		if err := Insert(root, name, link("no")); err == nil {
			t.Errorf("inserted at %q", name)
		}
	}
}
