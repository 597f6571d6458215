package squashfs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// writeTree is the checked tree, its inodes numbered.
//
// Directories are listed so that each comes after those below it. The inodes of
// one directory's files and subdirectories are written, and numbered, side by
// side in the order of their names: a reader that lists a directory finds them
// in one or two metadata blocks. The root comes last.
type writeTree struct {
	dirs   []*writeDir
	inodes map[*Node]*writeInode
	count  uint32 // of inodes; also the root's number
}

// writeInode is a Node on its way into the inode table.
type writeInode struct {
	node   *Node
	number uint32
	nlink  uint32
	done   bool      // it was written, at:
	ref    uint64    // its reference
	dir    *writeDir // of a directory
}

// writeDir is a directory on its way into the directory table.
type writeDir struct {
	inode   *writeInode
	parent  *writeDir // nil: the root
	name    string
	entries []writeEntry // sorted by name

	// Its listing in the directory table.
	block  int64
	offset uint16
	size   uint32 // bytes
	index  []writeDirIndex
}

type writeEntry struct {
	name  string
	inode *writeInode
}

func newWriteTree(w *Writer, root *Node) (*writeTree, error) {
	if root == nil || root.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, errors.New("root is not a directory")
	}
	t := &writeTree{inodes: map[*Node]*writeInode{}}
	top := &writeDir{inode: &writeInode{node: root, nlink: 2}}
	top.inode.dir = top
	t.inodes[root] = top.inode
	// A stack, not recursion: a tree may be deeper than anyone's patience.
	for stack := []*writeDir{top}; len(stack) > 0; {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		t.dirs = append(t.dirs, d)
		below, err := t.enter(w, d)
		if err != nil {
			return nil, err
		}
		stack = append(stack, below...)
	}
	slices.Reverse(t.dirs)
	t.number()
	return t, nil
}

// enter makes d's entries and returns its subdirectories.
func (t *writeTree) enter(w *Writer, d *writeDir) ([]*writeDir, error) {
	children := d.inode.node.Children
	names := slices.Sorted(maps.Keys(children))
	d.entries = make([]writeEntry, 0, len(names))
	var below []*writeDir
	for _, name := range names {
		node := children[name]
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("%s: %w", d.path(), err)
		}
		inode := t.inodes[node]
		if inode == nil {
			if err := checkNode(w, node); err != nil {
				return nil, fmt.Errorf("%s: %w", d.pathOf(name), err)
			}
			inode = &writeInode{node: node}
			t.inodes[node] = inode
		}
		if inode.dir != nil {
			return nil, fmt.Errorf("%s: directory has another name already: %s", d.pathOf(name), inode.dir.path())
		}
		if node.Mode&unix.S_IFMT == unix.S_IFDIR {
			inode.dir = &writeDir{inode: inode, parent: d, name: name}
			inode.nlink = 1
			d.inode.nlink++
			below = append(below, inode.dir)
		}
		inode.nlink++
		d.entries = append(d.entries, writeEntry{name, inode})
	}
	return below, nil
}

func (t *writeTree) number() {
	for _, d := range t.dirs {
		for _, e := range d.entries {
			if e.inode.number == 0 {
				t.count++
				e.inode.number = t.count
			}
		}
	}
	t.count++
	t.root().inode.number = t.count
}

func (t *writeTree) root() *writeDir { return t.dirs[len(t.dirs)-1] }

func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..",
		strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("name %q is not one of a file", name)
	case len(name) > maxNameLen:
		return fmt.Errorf("name %q… of %d bytes: at most %d", name[:32], len(name), maxNameLen)
	}
	return nil
}

func checkNode(w *Writer, n *Node) error {
	if n == nil {
		return errors.New("no node")
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFBLK, unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFREG:
		if n.Data != nil && n.Data.writer != w {
			return errors.New("content is of another writer")
		}
	case unix.S_IFLNK:
		if len(n.Target) == 0 || len(n.Target) > maxSymlinkLen {
			return fmt.Errorf("symbolic link to a name of %d bytes: must be 1 to %d", len(n.Target), maxSymlinkLen)
		}
	default:
		return fmt.Errorf("mode %#o has no known file type", n.Mode)
	}
	return nil
}

// path is d's name from the root, for messages.
func (d *writeDir) path() string {
	var names []string
	for ; d.parent != nil; d = d.parent {
		names = append(names, d.name)
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}

// pathOf is the path of an entry of d.
func (d *writeDir) pathOf(name string) string {
	return strings.TrimSuffix(d.path(), "/") + "/" + name
}
