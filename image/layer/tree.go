package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

const (
	maxLinks = 40   // symbolic links on a way, as in the kernel
	maxDepth = 2048 // directories above one another: PATH_MAX allows no more
	// maxSteps bounds the work that symbolic links in hostile layers cause.
	maxSteps = 1 << 28
)

// Lookup finds a file by its path from the root. Symbolic links on the way
// lead to places inside the tree; one at the end is what is found. The error
// of a missing file is fs.ErrNotExist.
func Lookup(root *squashfs.Node, name string) (*squashfs.Node, error) {
	t := &tree{root: root}
	p, err := t.walk(&place{node: root}, name, noCreate|noFollow, new(int))
	if err != nil {
		return nil, &fs.PathError{Op: "lookup", Path: name, Err: err}
	}
	return p.node, nil
}

// Resolve is Lookup that follows a symbolic link at the end as well.
func Resolve(root *squashfs.Node, name string) (*squashfs.Node, error) {
	t := &tree{root: root}
	p, err := t.walk(&place{node: root}, name, noCreate, new(int))
	if err != nil {
		return nil, &fs.PathError{Op: "resolve", Path: name, Err: err}
	}
	return p.node, nil
}

// Insert puts n at a path, in place of what is there; a directory that replaces
// a directory adopts its children where it has none of that name. Directories
// that are missing on the way are made, of root's and with mode 0755; symbolic
// links on the way lead to places inside the tree.
func Insert(root *squashfs.Node, name string, n *squashfs.Node) error {
	t := &tree{root: root}
	dir, base := split(strings.Trim(name, "/"))
	if base == "" || base == "." || base == ".." {
		return &fs.PathError{Op: "insert", Path: name, Err: fs.ErrInvalid}
	}
	p, err := t.walk(&place{node: root}, dir, 0, new(int))
	if err != nil {
		return &fs.PathError{Op: "insert", Path: name, Err: err}
	}
	if !isDir(p.node) {
		return &fs.PathError{Op: "insert", Path: name, Err: unix.ENOTDIR}
	}
	if old := p.node.Children[base]; old != nil && isDir(old) && isDir(n) {
		if n.Children == nil {
			n.Children = map[string]*squashfs.Node{}
		}
		for name, child := range old.Children {
			if _, ok := n.Children[name]; !ok {
				n.Children[name] = child
			}
		}
	}
	if p.node.Children == nil {
		p.node.Children = map[string]*squashfs.Node{}
	}
	p.node.Children[base] = n
	return nil
}

// newDir makes a directory as it is where no layer mentions it.
func newDir() *squashfs.Node {
	return &squashfs.Node{Mode: unix.S_IFDIR | 0o755, Children: map[string]*squashfs.Node{}}
}

func isDir(n *squashfs.Node) bool { return n.Mode&unix.S_IFMT == unix.S_IFDIR }

// tree is a root filesystem in the making.
type tree struct {
	root  *squashfs.Node
	steps int
	late  []lateLink
}

// place is a file with the way to it from the root.
type place struct {
	node  *squashfs.Node
	above *place // nil at the root
	depth int
}

// lateLink is a hard link whose target is looked for when all else of its
// layer is in place.
type lateLink struct {
	dir  *squashfs.Node
	base string
	e    *entry
}

type walkMode uint

const (
	noCreate walkMode = 1 << iota // directories that are missing are an error
	noFollow                      // a symbolic link at the end is not followed
)

// walk goes from p along a path; ".." above the root stays there, as with
// chroot(2). What is found is a directory, but with noCreate at the path's end.
func (t *tree) walk(p *place, path string, mode walkMode, links *int) (*place, error) {
	if strings.HasPrefix(path, "/") {
		p = &place{node: t.root}
	}
	for more := true; more; {
		var part string
		part, path, more = strings.Cut(path, "/")
		if t.steps++; t.steps > maxSteps {
			return nil, errors.New("too much work to follow symbolic links")
		}
		switch part {
		case "", ".":
			continue
		case "..":
			if !isDir(p.node) {
				return nil, unix.ENOTDIR
			}
			if p.above != nil {
				p = p.above
			}
			continue
		}
		m := mode
		if !atEnd(path) {
			m &^= noFollow
		}
		next, err := t.step(p, part, m, links)
		if err != nil {
			return nil, err
		}
		p = next
	}
	return p, nil
}

// atEnd tells whether what is left of a path leads no further.
func atEnd(rest string) bool {
	for part := range strings.SplitSeq(rest, "/") {
		if part != "" && part != "." {
			return false
		}
	}
	return true
}

// step goes from a directory to its child.
func (t *tree) step(p *place, name string, mode walkMode, links *int) (*place, error) {
	if !isDir(p.node) {
		return nil, unix.ENOTDIR
	}
	n := p.node.Children[name]
	if n == nil {
		if mode&noCreate != 0 {
			return nil, fs.ErrNotExist
		}
		n = newDir()
		if p.node.Children == nil {
			p.node.Children = map[string]*squashfs.Node{}
		}
		p.node.Children[name] = n
	}
	if n.Mode&unix.S_IFMT == unix.S_IFLNK && mode&noFollow == 0 {
		if *links++; *links > maxLinks {
			return nil, unix.ELOOP
		}
		return t.walk(p, n.Target, mode, links)
	}
	if !isDir(n) && mode&noCreate == 0 {
		return nil, unix.ENOTDIR
	}
	if p.depth >= maxDepth {
		return nil, unix.ENAMETOOLONG
	}
	return &place{n, p, p.depth + 1}, nil
}

// apply changes the tree as a layer says.
func (t *tree) apply(ctx context.Context, c *changes) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.resolvePending(t.linkTarget); err != nil {
		return err
	}
	root := &place{node: t.root}
	t.late = nil
	if err := t.remove(c.root, root); err != nil {
		return err
	}
	if c.root.entry != nil {
		setMetadata(t.root, c.root.entry.node)
	}
	if err := t.add(c.root, root); err != nil {
		return err
	}
	return t.linkLate()
}

// linkTarget finds a hard link's target in the layers below; nil where there
// is none.
func (t *tree) linkTarget(name string) (*entry, error) {
	p, err := t.walk(&place{node: t.root}, name, noCreate|noFollow, new(int))
	if err != nil {
		if isMissing(err) {
			return nil, nil
		}
		return nil, err
	}
	if isDir(p.node) {
		return &entry{kind: kindDir, node: p.node}, nil
	}
	return &entry{node: p.node}, nil
}

// isMissing tells whether a walk ended because nothing is there.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// remove does the whiteouts of a layer, before it adds anything.
func (t *tree) remove(c *change, p *place) error {
	if c.opaque {
		clear(p.node.Children)
	}
	for _, name := range slices.Sorted(maps.Keys(c.children)) {
		child := c.children[name]
		if child.whiteout {
			delete(p.node.Children, name)
		}
		if child.children == nil || child.entry != nil && !holdsDir(p.node, name) {
			continue
		}
		next, err := t.step(p, name, noCreate, new(int))
		if isMissing(err) || err == nil && !isDir(next.node) {
			continue
		}
		if err != nil {
			return err
		}
		if err := t.remove(child, next); err != nil {
			return err
		}
	}
	return nil
}

func holdsDir(dir *squashfs.Node, name string) bool {
	n := dir.Children[name]
	return n != nil && isDir(n)
}

// add puts the layer's files in place.
func (t *tree) add(c *change, p *place) error {
	for _, name := range slices.Sorted(maps.Keys(c.children)) {
		child := c.children[name]
		switch {
		case child.entry == nil && child.children == nil: // a whiteout
			continue
		case child.entry != nil && child.entry.kind != kindDir:
			t.put(p.node, name, child.entry)
			continue
		case child.entry != nil && holdsDir(p.node, name):
			setMetadata(p.node.Children[name], child.entry.node)
		case child.entry != nil:
			child.entry.node.Children = map[string]*squashfs.Node{}
			p.node.Children[name] = child.entry.node
		}
		next, err := t.step(p, name, 0, new(int))
		if err != nil {
			return fmt.Errorf("entry %q: %q in the layers below: %w", child.someName(name), name, err)
		}
		if err := t.add(child, next); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) put(dir *squashfs.Node, base string, e *entry) {
	if e.node == nil { // a hard link to what is not there yet
		t.late = append(t.late, lateLink{dir, base, e})
		delete(dir.Children, base)
		return
	}
	dir.Children[base] = e.node
}

// linkLate makes the hard links whose target a symbolic link of a lower layer
// led elsewhere than its name says.
func (t *tree) linkLate() error {
	for _, l := range t.late {
		name := l.e.target
		if l.e.same != nil {
			name = l.e.same.target
		}
		target, err := t.linkTarget(name)
		if err == nil && target == nil {
			err = fs.ErrNotExist
		}
		if err == nil && target.kind == kindDir {
			err = errLinkToDir
		}
		if err != nil {
			return fmt.Errorf("entry %q: hard link to %q: %w", l.e.name, name, err)
		}
		l.dir.Children[l.base] = target.node
	}
	return nil
}

// setMetadata gives a directory the attributes of another.
func setMetadata(dir, from *squashfs.Node) {
	children := dir.Children
	*dir = *from
	dir.Children = children
}
