package squashfs

import (
	"encoding/binary"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Dirent is a directory's entry.
type Dirent struct {
	Name   string
	Ref    Ref
	Number uint32 // of the inode
	Mode   uint32 // S_IFMT bits only
}

// Sizes on disk of what a listing consists of: a header, which stands before
// up to 256 entries whose inodes lie in one metadata block, and an entry
// without its name. A directory index entry's fixed part is as long as a header.
const (
	dirHeaderSize = 12
	dirEntrySize  = 8
	dirIndexSize  = 12

	// dirSlack is what the stored size of a listing has on top of its bytes:
	// the kernel counts three for "." and "..".
	dirSlack = 3
)

// A listing's position tells, in one number, where an entry starts and how far
// behind its header that is; a run of entries is shorter than 1<<runBits.
const runBits = 17

// dirCursor reads one directory's listing.
type dirCursor struct {
	metadataCursor
	dir  *Inode
	pos  uint64 // bytes into the listing
	head uint64 // where the present header starts
	left int    // of its entries, still to come

	start  uint32 // of the header: offset of the inodes' metadata block in the inode table
	number uint32 // of the header: inode number that the entries' are relative to
	name   [maxNameLen]byte
}

// dirEntry is a decoded entry; name is valid until the next one.
type dirEntry struct {
	name   []byte
	ref    Ref
	number uint32
	kind   uint16 // a basic inode type
}

func (e *dirEntry) dirent() Dirent {
	return Dirent{Name: string(e.name), Ref: e.ref, Number: e.number, Mode: fileTypes[e.kind-1]}
}

// ReadDir calls visit for each entry of a directory, in the order stored
// (sorted by name), until it returns false. offset is 0 for the start, or the
// next of an earlier call to go on behind its entry; positions stay valid for
// ever. "." and ".." are not part of it.
func (r *Reader) ReadDir(dir *Inode, offset int, visit func(d Dirent, next int) bool) error {
	if err := r.readDir(dir, uint64(offset), visit); err != nil {
		return fmt.Errorf("read directory %#x: %w", uint64(dir.Ref), err)
	}
	return nil
}

func (r *Reader) readDir(dir *Inode, offset uint64, visit func(d Dirent, next int) bool) error {
	var c dirCursor
	if err := c.open(r, dir); err != nil || c.block == nil {
		return err
	}
	defer c.close()
	if err := c.seek(offset>>runBits, offset&(1<<runBits-1)); err != nil {
		return err
	}
	for {
		e, err := c.next()
		if err != nil || e.name == nil {
			return err
		}
		if err := c.check(&e); err != nil {
			return err
		}
		if !visit(e.dirent(), int(c.pos<<runBits|(c.pos-c.head))) {
			return nil
		}
	}
}

// Lookup finds an entry of a directory by name. A name that is not there gives
// an error that wraps fs.ErrNotExist.
func (r *Reader) Lookup(dir *Inode, name string) (Dirent, error) {
	d, err := r.lookup(dir, name)
	if err != nil {
		return Dirent{}, fmt.Errorf("look up %q in %#x: %w", name, uint64(dir.Ref), err)
	}
	return d, nil
}

func (r *Reader) lookup(dir *Inode, name string) (Dirent, error) {
	var c dirCursor
	if err := c.open(r, dir); err != nil {
		return Dirent{}, err
	}
	defer c.close()
	if c.block == nil || len(name) == 0 || len(name) > maxNameLen {
		return Dirent{}, fs.ErrNotExist
	}
	if dir.indexes > 0 {
		if err := c.seekIndex(name); err != nil {
			return Dirent{}, err
		}
	}
	for {
		c.skipOthers(name)
		e, err := c.next()
		if err != nil {
			return Dirent{}, err
		}
		if e.name == nil || passed(e.name, name) {
			return Dirent{}, fs.ErrNotExist
		}
		if string(e.name) == name {
			return e.dirent(), c.check(&e)
		}
	}
}

// passed reports whether a name can no longer come when this one does. Writers
// differ in how they compare bytes above 0x7f and the kernel trusts the order
// of the first byte alone, so we do too.
func passed(this []byte, name string) bool { return this[0] > name[0] }

// skipOthers passes over entries of the present header that are not the one
// looked for, as far as they lie in one metadata block: a lookup's inner loop.
func (c *dirCursor) skipOthers(name string) {
	d := c.block.data[c.off:]
	start := len(d)
	for ; c.left > 0 && len(d) > dirEntrySize; c.left-- {
		end := dirEntrySize + int(binary.LittleEndian.Uint16(d[6:])) + 1
		if end > len(d) || end > dirEntrySize+maxNameLen {
			break
		}
		this := d[dirEntrySize:end]
		if passed(this, name) || string(this) == name {
			break
		}
		d = d[end:]
	}
	c.off += start - len(d)
	c.pos += uint64(start - len(d))
}

// Parent returns the inode number of a directory's "..".
func (r *Reader) Parent(dir *Inode) uint32 {
	if dir.Ref == r.Root() {
		return dir.Number // stored is a number one above the last
	}
	return dir.parent
}

// open goes to the start of a directory's listing. An empty one has no block.
func (c *dirCursor) open(r *Reader, dir *Inode) error {
	c.dir = dir
	if !dir.IsDir() {
		return unix.ENOTDIR
	}
	if dir.Size <= dirSlack {
		return nil
	}
	var err error
	c.metadataCursor, err = r.openRef(dir.listing, r.sb.DirectoryTable, r.directoryEnd)
	return err
}

func (c *dirCursor) size() uint64 { return c.dir.Size - dirSlack }

// seek moves forward to pos, which lies run bytes behind a header.
func (c *dirCursor) seek(pos, run uint64) error {
	if pos == 0 {
		return nil
	}
	if pos > c.size() || run > pos {
		return fmt.Errorf("seek to %d: %w", pos, unix.EINVAL)
	}
	if err := c.skip(int(pos - run)); err != nil {
		return err
	}
	c.pos = pos - run
	if run == 0 {
		return nil
	}
	if err := c.header(); err != nil {
		return err
	}
	for c.pos < pos {
		if _, err := c.entry(); err != nil {
			return err
		}
	}
	return nil
}

// seekIndex moves to the last header that the directory index places at or
// before a name.
func (c *dirCursor) seekIndex(name string) error {
	x, err := c.r.openMetadata(c.dir.tail.pos, c.r.inodeEnd, c.dir.tail.off)
	if err != nil {
		return err
	}
	defer x.close()
	var pos, start uint32
	found := false
	for range c.dir.indexes {
		p, err := x.take(dirIndexSize)
		if err != nil {
			return err
		}
		le := binary.LittleEndian
		at, block, size := le.Uint32(p), le.Uint32(p[4:]), le.Uint32(p[8:])
		if size >= maxNameLen {
			return corrupt("directory index with a name of %d bytes", size)
		}
		first := c.name[:size+1]
		if err := x.read(first); err != nil {
			return err
		}
		if string(first) > name {
			break
		}
		pos, start, found = at, block, true
	}
	if !found {
		return nil
	}
	return c.jump(uint64(pos), start)
}

// jump goes to byte pos of the listing, which lies in the metadata block at
// start of the directory table.
func (c *dirCursor) jump(pos uint64, start uint32) error {
	if pos >= c.size() {
		return corrupt("directory index to byte %d of %d", pos, c.size())
	}
	r, off := c.r, (uint64(c.dir.listing&0xffff)+pos)%metadataSize
	m, err := r.openRef(Ref(start)<<16|Ref(off), r.sb.DirectoryTable, r.directoryEnd)
	if err != nil {
		return err
	}
	c.close()
	c.metadataCursor = m
	c.pos, c.left = pos, 0
	return nil
}

// next returns the next entry; its name is nil at the end.
func (c *dirCursor) next() (dirEntry, error) {
	if c.left == 0 {
		if c.pos >= c.size() {
			return dirEntry{}, nil
		}
		if err := c.header(); err != nil {
			return dirEntry{}, err
		}
	}
	return c.entry()
}

func (c *dirCursor) header() error {
	p, err := c.take(dirHeaderSize)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	count := le.Uint32(p)
	if count >= maxDirRun {
		return corrupt("directory header with %d entries", uint64(count)+1)
	}
	c.start, c.number = le.Uint32(p[4:]), le.Uint32(p[8:])
	c.head = c.pos
	c.left = int(count) + 1
	c.pos += dirHeaderSize
	return nil
}

func (c *dirCursor) entry() (dirEntry, error) {
	if c.left == 0 {
		return dirEntry{}, corrupt("no entry at byte %d", c.pos)
	}
	p, err := c.take(dirEntrySize)
	if err != nil {
		return dirEntry{}, err
	}
	le := binary.LittleEndian
	e := dirEntry{
		ref:    Ref(c.start)<<16 | Ref(le.Uint16(p)),
		number: c.number + uint32(int32(int16(le.Uint16(p[2:])))),
		kind:   le.Uint16(p[4:]),
	}
	size := int(le.Uint16(p[6:])) + 1
	if size > maxNameLen {
		return dirEntry{}, corrupt("name of %d bytes", size)
	}
	if d := c.block.data[c.off:]; len(d) >= size {
		e.name = d[:size:size]
		c.off += size
	} else {
		e.name = c.name[:size]
		if err := c.read(e.name); err != nil {
			return dirEntry{}, err
		}
	}
	c.pos += uint64(dirEntrySize + size)
	c.left--
	if c.pos > c.size() {
		return dirEntry{}, corrupt("entry behind the listing's %d bytes", c.size())
	}
	return e, nil
}

// check refuses what no writer makes and a caller could come to harm by.
func (c *dirCursor) check(e *dirEntry) error {
	if e.kind < inodeDir || e.kind > inodeSocket {
		return corrupt("entry %q of type %d", e.name, e.kind)
	}
	bad := string(e.name) == "." || string(e.name) == ".."
	for _, b := range e.name {
		bad = bad || b == '/' || b == 0
	}
	if bad {
		return corrupt("entry named %q", e.name)
	}
	// A directory's listing can be written only when its children's places
	// are known, so a child directory lies before its parent. Holding images
	// to that makes loops impossible, for us and for all who walk the tree.
	if e.kind == inodeDir && e.ref >= c.dir.Ref {
		return corrupt("directory loop at %q", e.name)
	}
	return nil
}
