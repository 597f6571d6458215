package layer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// changes is what a layer does to the tree below it.
type changes struct {
	layer   Layer
	root    *change
	skipped []*entry // regular files whose content was not stored, in order
	pending []*entry // hard links whose target the layer did not hold before them
}

// change is what a layer does to one path. A change without entry that has
// children is a directory that the layer does not mention itself.
type change struct {
	entry    *entry // a file, directory or hard link
	whiteout bool   // what lower layers have here is removed
	opaque   bool   // what lower layers have below is removed
	children map[string]*change
}

// changeBytes estimates the memory of a change, here and in the cover.
const changeBytes = 512

func newChanges(l Layer) *changes { return &changes{layer: l, root: &change{}} }

// record adds an entry, and returns how many changes it made.
func (c *changes) record(e *entry) (made int, err error) {
	at := c.root
	for part := range strings.SplitSeq(e.name, "/") {
		if e.name == "" {
			break
		}
		if at.entry != nil && at.entry.kind != kindDir {
			return made, fmt.Errorf("is below %q, which this layer makes %s", at.entry.name, at.entry.noun())
		}
		next := at.children[part]
		if next == nil {
			if at.children == nil {
				at.children = map[string]*change{}
			}
			next = &change{}
			at.children[part] = next
			made++
		}
		at = next
	}
	return made, c.set(at, e)
}

func (c *changes) set(at *change, e *entry) error {
	switch e.kind {
	case kindWhiteout:
		at.whiteout = true
		return nil
	case kindOpaque:
		if at.entry != nil && at.entry.kind != kindDir {
			return fmt.Errorf("marks %q opaque, which this layer makes %s", e.name, at.entry.noun())
		}
		at.opaque = true
		if at.children == nil {
			at.children = map[string]*change{} // a directory, even an empty one
		}
		return nil
	case kindLink:
		c.bind(e)
	}
	if e.kind != kindDir {
		if at == c.root {
			return fmt.Errorf("the root is %s", e.noun())
		}
		at.children, at.opaque = nil, false
	}
	at.entry = e
	return nil
}

// bind connects a hard link with a target that the layer has at this point:
// the link keeps it when a later entry replaces the target.
func (c *changes) bind(e *entry) {
	target := c.find(e.target)
	switch {
	case target == nil || target.kind == kindDir:
		c.pending = append(c.pending, e)
	case target.node == nil:
		if e.same = target; target.same != nil {
			e.same = target.same // so that there are no chains of these
		}
		c.pending = append(c.pending, e)
	default:
		e.node = target.node
	}
}

// find returns the entry at a path of this layer, or nil.
func (c *changes) find(name string) *entry {
	at := c.root
	for part := range strings.SplitSeq(name, "/") {
		if at = at.children[part]; at == nil {
			return nil
		}
	}
	return at.entry
}

// resolvePending finds the targets of the hard links whose target did not
// stand before them: in the layer, else by lower. Those that are found in
// neither place keep no node.
func (c *changes) resolvePending(lower func(name string) (*entry, error)) error {
	for _, e := range c.pending {
		if c.find(e.name) != e {
			continue // a later entry has replaced it
		}
		// Links to links to links: follow them in a loop, as there may be millions.
		var chain []*entry
		at, onChain := e, map[*entry]bool{}
		for at.node == nil {
			if onChain[at] {
				return fmt.Errorf("entry %q: hard link to itself", e.name)
			}
			onChain[at] = true
			chain = append(chain, at)
			next := at.same
			if next == nil {
				next = c.find(at.target)
			}
			if next == nil {
				var err error
				if next, err = lower(at.target); err != nil {
					return fmt.Errorf("entry %q: hard link to %q: %w", at.name, at.target, err)
				}
			}
			if next == nil || next.missing {
				break
			}
			if next.kind == kindDir {
				return fmt.Errorf("entry %q: hard link to %q: %w", at.name, at.target, errLinkToDir)
			}
			at = next
		}
		for _, link := range chain {
			link.node, link.missing = at.node, at.node == nil
		}
	}
	return nil
}

var errLinkToDir = errors.New("target is a directory")

// someName is the name of an entry at or below c, for messages.
func (c *change) someName(fallback string) string {
	for c.entry == nil {
		names := slices.Sorted(maps.Keys(c.children))
		if len(names) == 0 {
			return fallback
		}
		c = c.children[names[0]]
	}
	return c.entry.name
}

// noun tells what an entry is.
func (e *entry) noun() string {
	if e.kind == kindLink {
		return "a hard link"
	}
	switch e.node.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a file"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFDIR:
		return "a directory"
	}
	return "a special file"
}

// cover is what the layers read so far hide of the layers below them. It looks
// at names only, hence may err where a symbolic link leads elsewhere; see
// merge.storeMissing.
type cover struct {
	present bool // something that stands here, or a whiteout: content here is hidden
	blocks  bool // all that is below as well: present and no directory
	opaque  bool // all that is below, but not what is here
	wanted  bool // a hard link needs what is here, hidden or not
	below   map[string]*cover
}

// add covers with a layer what is below that layer.
func (v *cover) add(c *changes) {
	v.addChange(c.root)
	for _, e := range c.pending {
		if e.same == nil && c.find(e.target) == nil {
			v.at(e.target).wanted = true
		}
	}
}

func (v *cover) addChange(c *change) {
	if c.entry != nil {
		v.present = true
		if c.entry.kind != kindDir {
			v.blocks, v.wanted = true, false
		}
	}
	if c.whiteout {
		v.present, v.blocks = true, true
	}
	v.opaque = v.opaque || c.opaque
	for name, child := range c.children {
		v.child(name).addChange(child)
	}
}

func (v *cover) child(name string) *cover {
	next := v.below[name]
	if next == nil {
		if v.below == nil {
			v.below = map[string]*cover{}
		}
		next = &cover{}
		v.below[name] = next
	}
	return next
}

func (v *cover) at(name string) *cover {
	for part := range strings.SplitSeq(name, "/") {
		v = v.child(part)
	}
	return v
}

// hides tells whether content of a file of that name is hidden.
func (v *cover) hides(name string) bool {
	hidden := false
	for part := range strings.SplitSeq(name, "/") {
		hidden = hidden || v.blocks || v.opaque
		if v = v.below[part]; v == nil {
			return hidden
		}
	}
	return (hidden || v.present) && !v.wanted
}
