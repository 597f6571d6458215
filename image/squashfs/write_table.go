package squashfs

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
)

// imageAlign is what an image's size is padded to, as mksquashfs does for loop
// devices.
const imageAlign = 4 << 10

// writeIDs is the table of user and group ids.
type writeIDs struct {
	numbers map[uint32]uint16
	table   []byte
}

// index returns the number that stands for id in inodes.
func (t *writeIDs) index(id uint32) (uint16, error) {
	n, ok := t.numbers[id]
	if !ok {
		// The superblock counts them in 16 bits.
		if len(t.numbers) == math.MaxUint16 {
			return 0, fmt.Errorf("more than %d different user and group ids", math.MaxUint16)
		}
		n = uint16(len(t.numbers))
		t.numbers[id] = n
		t.table = binary.LittleEndian.AppendUint32(t.table, id)
	}
	return n, nil
}

// writeTables writes all that follows the data blocks, from pos on, and the
// superblock. Each table lies where the kernel expects it: its checks want
// them in this order, without gaps (fs/squashfs/super.c).
func writeTables(w *Writer, tree *writeTree, c writeCompressor, pos int64) (int64, error) {
	t := &writeInodes{
		w:      w,
		count:  tree.count,
		inodes: newWriteMeta(c),
		dirs:   newWriteMeta(c),
		ids:    writeIDs{numbers: map[uint32]uint16{}},
		xattrs: newWriteXattrs(c, w.dropped),
	}
	if err := t.writeTree(tree); err != nil {
		return 0, err
	}
	sb := w.superblock()
	sb.Inodes = tree.count
	sb.RootInode = tree.root().inode.ref
	sb.IDs = uint16(len(t.ids.numbers))

	out := &tableWriter{w: w, c: c, pos: pos}
	sb.InodeTable = uint64(out.add(t.inodes.out))
	sb.DirectoryTable = uint64(out.add(t.dirs.out))
	sb.FragmentTable = out.lookupTable(w.fragments.encode(), nil)
	sb.ExportTable = out.lookupTable(encodeRefs(t.refs), nil)
	sb.IDTable = out.lookupTable(t.ids.table, nil)
	sb.XattrTable = out.xattrTable(t.xattrs)
	sb.BytesUsed = uint64(out.pos)
	out.pad(imageAlign)
	if out.err != nil {
		return 0, out.err
	}
	return out.pos, w.writeSuperblock(sb)
}

// tableWriter writes tables one after the other. Its first error stays.
type tableWriter struct {
	w   *Writer
	c   writeCompressor
	pos int64
	err error
}

// add writes b and returns where.
func (t *tableWriter) add(b []byte) int64 {
	pos := t.pos
	if t.err == nil && len(b) > 0 {
		t.err = writeWhole(t.w.pipe.out, b, pos)
	}
	t.pos += int64(len(b))
	return pos
}

// lookupTable writes a table of entries, as those of ids, fragments, inode
// references and xattr sets: metadata blocks and then head and the offsets of
// these blocks. It returns where that index begins, noTable without entries.
func (t *tableWriter) lookupTable(entries, head []byte) uint64 {
	if len(entries) == 0 {
		return noTable
	}
	m := newWriteMeta(t.c)
	for rest := entries; len(rest) > 0; {
		n := min(len(rest), metadataSize)
		block, _ := m.position()
		head = binary.LittleEndian.AppendUint64(head, uint64(t.pos+block))
		m.write(rest[:n])
		rest = rest[n:]
	}
	m.flush()
	if t.err == nil {
		t.err = m.err
	}
	t.add(m.out)
	return uint64(t.add(head))
}

func (t *tableWriter) xattrTable(x *writeXattrs) uint64 {
	if len(x.table) == 0 {
		return noTable
	}
	x.meta.flush()
	if t.err == nil {
		t.err = x.meta.err
	}
	le := binary.LittleEndian
	head := le.AppendUint64(nil, uint64(t.add(x.meta.out)))
	head = le.AppendUint32(head, uint32(len(x.table)/xattrIDSize))
	head = le.AppendUint32(head, 0) // unused
	return t.lookupTable(x.table, head)
}

func (t *tableWriter) pad(align int64) {
	if rest := t.pos % align; rest != 0 {
		t.add(make([]byte, align-rest))
	}
}

func (f *writeFragments) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, 16*len(f.list))
	for _, e := range f.list {
		b = le.AppendUint64(b, uint64(e.start))
		b = le.AppendUint32(b, e.size)
		b = le.AppendUint32(b, 0) // unused
	}
	return b
}

func encodeRefs(refs []uint64) []byte {
	b := make([]byte, 0, 8*len(refs))
	for _, ref := range refs {
		b = binary.LittleEndian.AppendUint64(b, ref)
	}
	return b
}

// superblock is the part of it that does not depend on the tree.
func (w *Writer) superblock() superblock {
	o := w.options
	sb := superblock{
		Magic:       magic,
		BlockSize:   uint32(o.BlockSize),
		BlockLog:    uint16(bits.TrailingZeros(uint(o.BlockSize))),
		Fragments:   uint32(len(w.fragments.list)),
		Compression: o.Compression,
		Flags:       flagDuplicates | flagExportable,
		Major:       4,
	}
	if !o.ModTime.IsZero() {
		sb.ModTime = clampTime(o.ModTime.Unix())
	}
	if o.compressorOptions() != nil {
		sb.Flags |= flagCompressorOptions
	}
	return sb
}

func (w *Writer) writeSuperblock(sb superblock) error {
	b, err := binary.Append(nil, binary.LittleEndian, sb)
	if err != nil {
		return fmt.Errorf("encode superblock: %w", err)
	}
	return writeWhole(w.pipe.out, append(b, w.options.compressorOptions()...), 0)
}
