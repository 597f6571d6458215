package squashfs

import (
	"encoding/binary"
	"fmt"
)

// lookupTable is an array of small records that lies in metadata blocks, with
// a list of these blocks' image offsets before us in memory.
type lookupTable struct {
	count  uint64 // records
	size   int    // bytes of a record; divides metadataSize
	blocks []uint64
	end    uint64 // image offset where the blocks end
}

// readTables reads the lists of blocks of the id, fragment, export and xattr
// tables, and the ids themselves.
func (r *Reader) readTables() error {
	r.inodeEnd = r.sb.DirectoryTable
	r.directoryEnd = r.sb.BytesUsed
	var err error
	if r.sb.Fragments > 0 {
		if r.fragments, err = r.readIndex(r.sb.FragmentTable, uint64(r.sb.Fragments), 16); err != nil {
			return fmt.Errorf("read fragment table: %w", err)
		}
	}
	if r.sb.ExportTable != noTable && r.sb.Inodes > 0 {
		if r.exports, err = r.readIndex(r.sb.ExportTable, uint64(r.sb.Inodes), 8); err != nil {
			return fmt.Errorf("read export table: %w", err)
		}
	}
	if r.sb.XattrTable != noTable {
		if err := r.readXattrTable(); err != nil {
			return fmt.Errorf("read xattr table: %w", err)
		}
	}
	if err := r.readIDs(); err != nil {
		return fmt.Errorf("read id table: %w", err)
	}
	return nil
}

// readIndex reads the list of the metadata blocks that hold count records of
// size bytes. The blocks lie before the list.
func (r *Reader) readIndex(pos, count uint64, size int) (lookupTable, error) {
	perBlock := uint64(metadataSize / size)
	n := (count + perBlock - 1) / perBlock
	if n > maxTableBlocks || n*8 > r.sb.BytesUsed-pos {
		return lookupTable{}, corrupt("%d records at %d", count, pos)
	}
	raw := make([]byte, n*8)
	if err := r.readFull(raw, pos); err != nil {
		return lookupTable{}, err
	}
	t := lookupTable{count: count, size: size, blocks: make([]uint64, n), end: pos}
	last := uint64(superblockSize)
	for i := range t.blocks {
		b := binary.LittleEndian.Uint64(raw[i*8:])
		if b < last || b >= pos {
			return lookupTable{}, corrupt("block %d at %d", i, b)
		}
		t.blocks[i], last = b, b+3 // a length and at least one byte
	}
	if n > 0 && t.blocks[0] > r.sb.DirectoryTable {
		r.directoryEnd = min(r.directoryEnd, t.blocks[0])
	}
	return t, nil
}

// record copies record i into p.
func (r *Reader) record(t *lookupTable, i uint64, p []byte) error {
	if i >= t.count {
		return corrupt("record %d of %d", i, t.count)
	}
	perBlock := uint64(metadataSize / t.size)
	c, err := r.openMetadata(t.blocks[i/perBlock], t.end, int(i%perBlock)*t.size)
	if err != nil {
		return err
	}
	defer c.close()
	return c.read(p)
}

func (r *Reader) readIDs() error {
	t, err := r.readIndex(r.sb.IDTable, uint64(r.sb.IDs), 4)
	if err != nil {
		return err
	}
	ids := make([]uint32, 0, r.sb.IDs)
	for i, pos := range t.blocks {
		n := min(int(r.sb.IDs)-len(ids), metadataSize/4)
		raw := make([]byte, n*4)
		c, err := r.openMetadata(pos, t.end, 0)
		if err == nil {
			err = c.read(raw)
			c.close()
		}
		if err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		for ; len(raw) > 0; raw = raw[4:] {
			ids = append(ids, binary.LittleEndian.Uint32(raw))
		}
	}
	r.ids = ids
	return nil
}

func (r *Reader) id(index uint16) (uint32, error) {
	if int(index) >= len(r.ids) {
		return 0, corrupt("id %d of %d", index, len(r.ids))
	}
	return r.ids[index], nil
}

// Exported returns the reference of the inode with a number, from the table
// that lets NFS servers find inodes again. Images made without it give an
// error.
func (r *Reader) Exported(number uint32) (Ref, error) {
	if r.exports.count == 0 {
		return 0, fmt.Errorf("find inode %d: the image has no export table", number)
	}
	if number == 0 || uint64(number) > r.exports.count {
		return 0, fmt.Errorf("find inode %d: the image has %d", number, r.exports.count)
	}
	var raw [8]byte
	if err := r.record(&r.exports, uint64(number-1), raw[:]); err != nil {
		return 0, fmt.Errorf("find inode %d: %w", number, err)
	}
	return Ref(binary.LittleEndian.Uint64(raw[:])), nil
}
