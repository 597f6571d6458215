package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// writeInodes encodes the inode and directory tables.
type writeInodes struct {
	w      *Writer
	count  uint32 // of inodes in the tree
	inodes *writeMeta
	dirs   *writeMeta
	ids    writeIDs
	xattrs *writeXattrs
	refs   []uint64 // of the inodes, by number-1
	buf    []byte   // scratch
}

func (t *writeInodes) writeTree(tree *writeTree) error {
	t.refs = make([]uint64, tree.count)
	for _, d := range tree.dirs {
		for _, e := range d.entries {
			if err := t.writeInode(e.inode); err != nil {
				return fmt.Errorf("%s: %w", d.pathOf(e.name), err)
			}
		}
		if err := writeListing(t.dirs, d); err != nil {
			return err
		}
	}
	root := tree.root()
	if err := t.writeInode(root.inode); err != nil {
		return fmt.Errorf("/: %w", err)
	}
	t.inodes.flush()
	t.dirs.flush()
	if t.inodes.err != nil {
		return t.inodes.err
	}
	return t.dirs.err
}

// writeInode writes in unless it was written under another name.
func (t *writeInodes) writeInode(in *writeInode) error {
	if in.done {
		return nil
	}
	in.done = true
	in.ref = t.inodes.ref()
	if in.ref>>16 > math.MaxUint32 {
		return errors.New("inode table of more than 4 GiB")
	}
	t.refs[in.number-1] = in.ref
	xattr, err := t.xattrs.add(in.node.Xattrs)
	if err != nil {
		return err
	}
	uid, err := t.ids.index(in.node.UID)
	if err != nil {
		return err
	}
	gid, err := t.ids.index(in.node.GID)
	if err != nil {
		return err
	}
	b, err := t.appendInode(in, xattr, uid, gid)
	if err != nil {
		return err
	}
	t.inodes.write(b)
	return nil
}

// basicType is the inode type of a mode; the extended one is extendedTypes on.
func basicType(mode uint32) uint16 {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return inodeDir
	case unix.S_IFREG:
		return inodeFile
	case unix.S_IFLNK:
		return inodeSymlink
	case unix.S_IFBLK:
		return inodeBlockDev
	case unix.S_IFCHR:
		return inodeCharDev
	case unix.S_IFIFO:
		return inodeFifo
	}
	return inodeSocket // checkNode knows no other
}

const extendedTypes = inodeExtDir - inodeDir

// appendInode encodes in. An extended inode is used only for what the basic one
// has no room for. The result is valid until the next call.
func (t *writeInodes) appendInode(in *writeInode, xattr uint32, uid, gid uint16) ([]byte, error) {
	kind := basicType(in.node.Mode)
	var body []byte
	var extended bool
	var err error
	switch kind {
	case inodeDir:
		body, extended = t.dirBody(in.dir, xattr)
	case inodeFile:
		body, extended = t.fileBody(in, xattr)
	default:
		body, err = specialBody(in, kind)
		if extended = xattr != noXattr; extended {
			body = binary.LittleEndian.AppendUint32(body, xattr)
		}
	}
	if extended {
		kind += extendedTypes
	}
	le := binary.LittleEndian
	b := le.AppendUint16(t.buf[:0], kind)
	b = le.AppendUint16(b, uint16(in.node.Mode&^unix.S_IFMT))
	b = le.AppendUint16(b, uid)
	b = le.AppendUint16(b, gid)
	b = le.AppendUint32(b, clampTime(in.node.ModTime))
	b = le.AppendUint32(b, in.number)
	t.buf = append(b, body...)
	return t.buf, err
}

func (t *writeInodes) dirBody(d *writeDir, xattr uint32) (body []byte, extended bool) {
	le := binary.LittleEndian
	parent := t.count + 1 // of the root, by custom
	if d.parent != nil {
		parent = d.parent.inode.number
	}
	size := d.size + dirSlack
	if xattr == noXattr && size <= math.MaxUint16 && len(d.index) == 0 {
		body = le.AppendUint32(body, uint32(d.block))
		body = le.AppendUint32(body, d.inode.nlink)
		body = le.AppendUint16(body, uint16(size))
		body = le.AppendUint16(body, d.offset)
		return le.AppendUint32(body, parent), false
	}
	body = le.AppendUint32(body, d.inode.nlink)
	body = le.AppendUint32(body, size)
	body = le.AppendUint32(body, uint32(d.block))
	body = le.AppendUint32(body, parent)
	body = le.AppendUint16(body, uint16(len(d.index)))
	body = le.AppendUint16(body, d.offset)
	body = le.AppendUint32(body, xattr)
	for _, x := range d.index {
		body = le.AppendUint32(body, x.at)
		body = le.AppendUint32(body, x.block)
		body = le.AppendUint32(body, uint32(len(x.name)-1))
		body = append(body, x.name...)
	}
	return body, true
}

func (t *writeInodes) fileBody(in *writeInode, xattr uint32) (body []byte, extended bool) {
	le := binary.LittleEndian
	d := in.node.Data
	if d == nil {
		d = &Data{fragment: noFragment}
	}
	if xattr == noXattr && in.nlink == 1 && d.sparse == 0 && d.start <= math.MaxUint32 && d.size <= math.MaxUint32 {
		body = le.AppendUint32(body, uint32(d.start))
		body = le.AppendUint32(body, d.fragment)
		body = le.AppendUint32(body, d.fragmentOffset)
		body = le.AppendUint32(body, uint32(d.size))
	} else {
		extended = true
		// As mksquashfs has it, a file is never all hole.
		sparse := d.sparse
		if d.size > 0 {
			sparse = min(sparse, uint64(d.size)-1)
		}
		body = le.AppendUint64(body, uint64(d.start))
		body = le.AppendUint64(body, uint64(d.size))
		body = le.AppendUint64(body, sparse)
		body = le.AppendUint32(body, in.nlink)
		body = le.AppendUint32(body, d.fragment)
		body = le.AppendUint32(body, d.fragmentOffset)
		body = le.AppendUint32(body, xattr)
	}
	for _, size := range d.blocks {
		body = le.AppendUint32(body, size)
	}
	// Zero blocks at the end were never placed.
	holes := d.blockCount(t.w.options.BlockSize) - int64(len(d.blocks))
	return append(body, make([]byte, 4*holes)...), extended
}

// specialBody is what all but directories and files have, without the xattr.
func specialBody(in *writeInode, kind uint16) ([]byte, error) {
	le := binary.LittleEndian
	body := le.AppendUint32(nil, in.nlink)
	switch kind {
	case inodeSymlink:
		body = le.AppendUint32(body, uint32(len(in.node.Target)))
		body = append(body, in.node.Target...)
	case inodeBlockDev, inodeCharDev:
		major, minor := unix.Major(in.node.Rdev), unix.Minor(in.node.Rdev)
		if major >= 1<<12 || minor >= 1<<20 {
			return nil, fmt.Errorf("device %d:%d: numbers go to 4095:1048575", major, minor)
		}
		// The kernel's new_encode_dev.
		body = le.AppendUint32(body, minor&0xff|major<<8|minor&^0xff<<12)
	}
	return body, nil
}
