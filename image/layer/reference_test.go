package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// reference applies layers from the bottom up to a flat map of paths, the
// plain way: an implementation to compare Merge with, of which it shares no
// code.
type reference struct {
	files map[string]*refFile // "" is the root
}

type refFile struct {
	typ             byte // 'd', 'f', 'l'
	content, target string
}

type refEntry struct {
	path string
	typ  byte // 'd', 'f', 'l', and 'h' for a hard link
	text string
	file *refFile
	same *refEntry // of a hard link to a hard link that stood before it
}

var errReference = errors.New("reference refuses")

// real follows the directories of a path; literal tells which of them are not
// to be followed, being directories of the layer itself.
func (r *reference) real(path string, create bool, literal func(string) bool) (string, error) {
	todo := strings.Split(path, "/")
	at, asked, links := "", "", 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			at = at[:max(strings.LastIndexByte(at, '/'), 0)]
			continue
		}
		if links == 0 {
			asked = strings.TrimPrefix(asked+"/"+part, "/")
		}
		next := strings.TrimPrefix(at+"/"+part, "/")
		n := r.files[next]
		switch {
		case n == nil && create:
			r.files[next] = &refFile{typ: 'd'}
			at = next
		case n == nil:
			return "", errReference
		case n.typ == 'd':
			at = next
		case n.typ == 'l' && !(links == 0 && literal != nil && literal(asked)):
			if links++; links > 40 {
				return "", errReference
			}
			todo = append(strings.Split(n.target, "/"), todo...)
			if strings.HasPrefix(n.target, "/") {
				at = ""
			}
		default:
			return "", errReference
		}
	}
	return at, nil
}

func (r *reference) removeBelow(path string) {
	maps.DeleteFunc(r.files, func(p string, _ *refFile) bool { return p != "" && (path == "" || strings.HasPrefix(p, path+"/")) })
}

func (r *reference) remove(path string) { r.removeBelow(path); delete(r.files, path) }

func parentOf(path string) string { return path[:max(strings.LastIndexByte(path, '/'), 0)] }
func baseOf(path string) string   { return path[strings.LastIndexByte(path, '/')+1:] }

func (r *reference) apply(files []file) error {
	var list []*refEntry
	var white, opaque []string
	find := func(path string) *refEntry {
		for _, e := range list {
			if e.path == path {
				return e
			}
		}
		return nil
	}
	for _, f := range files {
		h := f.header()
		path := strings.Trim(h.Name, "/")
		base := baseOf(path)
		if h.Typeflag == tar.TypeLink && h.Linkname == path {
			continue
		}
		for up := parentOf(path); up != ""; up = parentOf(up) {
			if e := find(up); e != nil && e.typ != 'd' {
				return errReference
			}
		}
		if base == ".wh..wh..opq" {
			opaque = append(opaque, parentOf(path))
			continue
		}
		if strings.HasPrefix(base, ".wh.") {
			white = append(white, strings.TrimPrefix(parentOf(path)+"/"+base[4:], "/"))
			continue
		}
		e := &refEntry{path: path, text: h.Linkname}
		switch h.Typeflag {
		case tar.TypeDir:
			e.typ = 'd'
		case tar.TypeReg:
			e.typ, e.file = 'f', &refFile{typ: 'f', content: f.content}
		case tar.TypeSymlink:
			e.typ, e.file = 'l', &refFile{typ: 'l', target: h.Linkname}
		case tar.TypeLink:
			e.typ = 'h'
			if target := find(e.text); target != nil && target.typ != 'd' {
				e.file = target.file
				if e.file == nil {
					e.same = target
				}
			}
		}
		if e.typ != 'd' {
			inside := func(p string) bool { return strings.HasPrefix(p, path+"/") }
			list = slices.DeleteFunc(list, func(o *refEntry) bool { return inside(o.path) })
			white = slices.DeleteFunc(white, inside)
			opaque = slices.DeleteFunc(opaque, func(p string) bool { return p == path || inside(p) })
		}
		list = slices.DeleteFunc(list, func(o *refEntry) bool { return o.path == path })
		list = append(list, e)
	}
	isOwnDir := func(p string) bool { e := find(p); return e != nil && e.typ == 'd' }

	// Hard links, before anything changes.
	for range len(files) {
		for _, e := range list {
			if e.typ != 'h' || e.file != nil {
				continue
			}
			for e.same != nil {
				e.text, e.same = e.same.text, e.same.same
			}
			if own := find(e.text); own != nil {
				if own.typ == 'd' {
					return errReference
				}
				e.file = own.file
			} else if dir, err := r.real(parentOf(e.text), false, nil); err == nil {
				e.file = r.files[strings.TrimPrefix(dir+"/"+baseOf(e.text), "/")]
				if e.file != nil && e.file.typ == 'd' {
					return errReference
				}
			}
		}
	}

	byParts := func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) }
	type removal struct {
		path   string
		opaque bool
	}
	var removals []removal
	for _, p := range white {
		removals = append(removals, removal{p, false})
	}
	for _, p := range opaque {
		removals = append(removals, removal{p, true})
	}
	slices.SortStableFunc(removals, func(a, b removal) int { return byParts(a.path, b.path) })
	for _, rm := range removals {
		if rm.opaque {
			if dir, err := r.real(rm.path, false, isOwnDir); err == nil {
				r.removeBelow(dir)
			}
		} else if dir, err := r.real(parentOf(rm.path), false, isOwnDir); err == nil {
			r.remove(strings.TrimPrefix(dir+"/"+baseOf(rm.path), "/"))
		}
	}

	// What is added, in the order of the paths. Directories that only hold
	// whiteouts are made too.
	adds := slices.Clone(list)
	for _, p := range white {
		if up := parentOf(p); up != "" {
			adds = append(adds, &refEntry{path: up, typ: 'i'})
		}
	}
	for _, p := range opaque {
		if p != "" {
			adds = append(adds, &refEntry{path: p, typ: 'i'})
		}
	}
	slices.SortStableFunc(adds, func(a, b *refEntry) int { return byParts(a.path, b.path) })
	type late struct{ path, target string }
	var lates []late
	for _, e := range adds {
		if e.typ == 'i' {
			if _, err := r.real(e.path, true, nil); err != nil {
				return err
			}
			continue
		}
		dir, err := r.real(parentOf(e.path), true, nil)
		if err != nil {
			return err
		}
		path := strings.TrimPrefix(dir+"/"+baseOf(e.path), "/")
		old := r.files[path]
		if e.typ == 'd' {
			if old == nil || old.typ != 'd' {
				r.remove(path)
				r.files[path] = &refFile{typ: 'd'}
			}
			continue
		}
		r.remove(path)
		if e.file == nil {
			lates = append(lates, late{path, e.text})
			continue
		}
		r.files[path] = e.file
	}
	for _, l := range lates {
		dir, err := r.real(parentOf(l.target), false, nil)
		if err != nil {
			return err
		}
		n := r.files[strings.TrimPrefix(dir+"/"+baseOf(l.target), "/")]
		if n == nil || n.typ == 'd' {
			return errReference
		}
		r.remove(l.path)
		r.files[l.path] = n
	}
	return nil
}

// list is as the other list.
func (r *reference) list() []string {
	var lines []string
	first := map[*refFile]string{}
	paths := slices.SortedFunc(maps.Keys(r.files), func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
	for _, p := range paths {
		n := r.files[p]
		name, seen := first[n]
		first[n] = p
		switch {
		case p == "":
		case seen:
			lines = append(lines, p+" = "+name)
			first[n] = name
		case n.typ == 'd':
			lines = append(lines, p+"/")
		case n.typ == 'l':
			lines = append(lines, p+" -> "+n.target)
		case n.content == "":
			lines = append(lines, p+": EMPTY")
		default:
			lines = append(lines, p+": "+n.content)
		}
	}
	return lines
}

// TestMergeEqualsTheReference merges random layers over a handful of names, so
// that they collide in every way.
func TestMergeEqualsTheReference(t *testing.T) {
	rounds := 6000
	if testing.Short() {
		rounds = 1000
	}
	accepted, again := 0, 0
	for seed := range rounds {
		lists := randomLayers(rand.New(rand.NewPCG(uint64(seed), 7)))
		ref := &reference{files: map[string]*refFile{"": {typ: 'd'}}}
		var want error
		for _, files := range lists {
			if want = ref.apply(files); want != nil {
				break
			}
		}
		all := layers(t, lists...)
		opened := 0
		for i := range all {
			open := all[i].Open
			all[i].Open = func() (io.ReadCloser, error) { opened++; return open() }
		}
		store := &memory{}
		root, err := Merge(context.Background(), all, store, Options{Workers: 1})
		if (err == nil) != (want == nil) {
			t.Fatalf("seed %d: %v, reference: %v\n%s", seed, err, want, describe(lists))
		}
		if err != nil {
			continue
		}
		accepted++
		if opened > len(all) {
			again++
		}
		if diff := cmp.Diff(ref.list(), list(root, store)); diff != "" {
			t.Fatalf("seed %d: %s\n%s", seed, diff, describe(lists))
		}
	}
	t.Logf("%d of %d accepted, %d with a layer read again", accepted, rounds, again)
	if accepted < rounds/4 || again == 0 && !testing.Short() {
		t.Error("the layers do not try enough")
	}
}

func randomLayers(r *rand.Rand) [][]file {
	names := []string{"a", "b", "c"}
	path := func() string {
		parts := []string{names[r.IntN(len(names))]}
		for r.IntN(2) == 0 && len(parts) < 4 {
			parts = append(parts, names[r.IntN(len(names))])
		}
		return strings.Join(parts, "/")
	}
	lists := make([][]file, 1+r.IntN(4))
	for i := range lists {
		for j := range 1 + r.IntN(6) {
			p := path()
			content := fmt.Sprintf("%d.%d", i, j)
			var x file
			switch r.IntN(12) {
			case 0, 1, 2:
				x = f(p, content)
			case 3, 4, 5:
				x = e(p + "/")
			case 6:
				x = e(p + " => " + path())
			case 7, 8:
				x = e(p + " -> " + []string{"", "/", "../", "../../"}[r.IntN(4)] + path())
			case 9, 10:
				dir, base := split(p)
				x = e(join(dir, ".wh."+base))
			case 11:
				x = e(join([]string{p, ""}[r.IntN(4)/3], ".wh..wh..opq"))
			}
			lists[i] = append(lists[i], x)
		}
	}
	return lists
}

func describe(lists [][]file) string {
	var b strings.Builder
	for i, files := range lists {
		for _, f := range files {
			fmt.Fprintf(&b, "layer %d: %s %q\n", i, f.name, f.content)
		}
	}
	return b.String()
}

// FuzzMerge takes bytes as one to three archives: what it makes of them may
// fail, but not panic, hang or take much memory.
func FuzzMerge(f *testing.F) {
	for _, lists := range [][][]file{{lower()}, {lower(), {e("etc/.wh.passwd"), e("lib/x => etc/group")}}} {
		var b []byte
		for _, files := range lists {
			b = append(b, archive(f, files...)...)
		}
		f.Add(b, uint8(len(lists)))
	}
	f.Add(gzipped(f, archive(f, lower()...)), uint8(1))
	f.Add(archive(f, file{name: strings.Repeat("long/", 60), mode: 0o755, pax: map[string]string{"SCHILY.xattr.user.x": "y"}},
		file{name: "c", typ: tar.TypeChar, major: 5, minor: 1}, file{name: "x", content: "y", mtime: -1}), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		count := 1 + int(n)%3
		var all []Layer
		for i := range count {
			part := bytes.Clone(b[len(b)*i/count : len(b)*(i+1)/count])
			mendChecksums(part)
			all = append(all, stored("x", part))
		}
		store := &memory{limit: 64 << 20}
		root, err := Merge(context.Background(), all, store, Options{Workers: 1})
		if err == nil {
			list(root, store)
		}
	})
}

// mendChecksums makes the headers of a changed archive valid again, so that the
// fuzzer gets behind them.
func mendChecksums(b []byte) {
	for ; len(b) >= 512; b = b[512:] {
		if string(b[257:262]) != "ustar" {
			continue
		}
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
}
