package squashfs

import (
	"encoding/binary"
	"fmt"
	"math"
)

// writeDirIndex is an entry of a directory's index: the header that begins at
// listing byte at, in the metadata block at block, and its first name.
type writeDirIndex struct {
	at    uint32
	block uint32
	name  string
}

// writeListing encodes d into the directory table. All inodes of its entries
// are written.
//
// Entries stand in runs behind a header, of inodes in one metadata block and
// with near numbers. A listing longer than a metadata block begins a new run in
// each, which the index names.
func writeListing(m *writeMeta, d *writeDir) error {
	if len(d.entries) == 0 {
		return nil
	}
	d.block, d.offset = m.position()
	if d.block > math.MaxUint32 {
		return fmt.Errorf("%s: directory table of more than 4 GiB", d.path())
	}
	indexed := d.listingSize() > metadataSize
	block := d.block // of the last run
	var size int64   // so far
	var buf []byte
	for entries := d.entries; len(entries) > 0; {
		here, offset := m.position()
		room := math.MaxInt
		if indexed {
			room = metadataSize - int(offset)
		}
		// The index has room for 512 MiB of listing; what follows is found slowly.
		if indexed && here != block && len(d.index) < math.MaxUint16 {
			d.index = append(d.index, writeDirIndex{uint32(size), uint32(here), entries[0].name})
			block = here
		}
		n := dirRun(entries, room)
		buf = appendDirRun(buf[:0], entries[:n])
		m.write(buf)
		size += int64(len(buf))
		entries = entries[n:]
	}
	if size > math.MaxUint32-dirSlack {
		return fmt.Errorf("%s: directory of more than 4 GiB", d.path())
	}
	d.size = uint32(size)
	return nil
}

// listingSize is about how long d's listing will be, in bytes.
func (d *writeDir) listingSize() int {
	size := 0
	for _, e := range d.entries {
		size += dirEntrySize + len(e.name)
	}
	return size
}

// dirRun is how many of entries can stand behind one header, none of them
// beginning at byte room or later.
func dirRun(entries []writeEntry, room int) int {
	first := entries[0].inode
	size := dirHeaderSize
	for i, e := range entries {
		delta := int64(e.inode.number) - int64(first.number)
		if i > 0 && (i == maxDirRun || size >= room || e.inode.ref>>16 != first.ref>>16 || delta != int64(int16(delta))) {
			return i
		}
		size += dirEntrySize + len(e.name)
	}
	return len(entries)
}

func appendDirRun(b []byte, entries []writeEntry) []byte {
	le := binary.LittleEndian
	first := entries[0].inode
	b = le.AppendUint32(b, uint32(len(entries)-1))
	b = le.AppendUint32(b, uint32(first.ref>>16))
	b = le.AppendUint32(b, first.number)
	for _, e := range entries {
		b = le.AppendUint16(b, uint16(e.inode.ref))
		b = le.AppendUint16(b, uint16(e.inode.number-first.number))
		b = le.AppendUint16(b, basicType(e.inode.node.Mode))
		b = le.AppendUint16(b, uint16(len(e.name)-1))
		b = append(b, e.name...)
	}
	return b
}
