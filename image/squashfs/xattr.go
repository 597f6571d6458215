package squashfs

import (
	"encoding/binary"
	"fmt"
)

// readXattrTable reads the header of the xattr id table and its list of blocks.
func (r *Reader) readXattrTable() error {
	var raw [16]byte
	if err := r.readFull(raw[:], r.sb.XattrTable); err != nil {
		return err
	}
	start := binary.LittleEndian.Uint64(raw[:])
	count := uint64(binary.LittleEndian.Uint32(raw[8:]))
	if count == 0 {
		return nil
	}
	if start < r.sb.DirectoryTable || start >= r.sb.XattrTable {
		return corrupt("attributes at %d", start)
	}
	t, err := r.readIndex(r.sb.XattrTable+16, count, xattrIDSize)
	if err != nil {
		return err
	}
	r.xattrIDs, r.xattrStart = t, start
	r.directoryEnd = min(r.directoryEnd, max(start, r.sb.DirectoryTable+1))
	return nil
}

// Xattrs returns an inode's extended attributes in the order stored. Values
// are the caller's own. An inode without any gives nil.
func (r *Reader) Xattrs(in *Inode) ([]Xattr, error) {
	if in.xattr == noXattr || r.xattrIDs.count == 0 {
		return nil, nil
	}
	list, err := r.readXattrs(in.xattr)
	if err != nil {
		return nil, fmt.Errorf("read xattrs of %#x: %w", uint64(in.Ref), err)
	}
	return list, nil
}

func (r *Reader) readXattrs(index uint32) ([]Xattr, error) {
	var raw [xattrIDSize]byte
	if err := r.record(&r.xattrIDs, uint64(index), raw[:]); err != nil {
		return nil, err
	}
	ref := Ref(binary.LittleEndian.Uint64(raw[:]))
	count := binary.LittleEndian.Uint32(raw[8:])
	c, err := r.openRef(ref, r.xattrStart, r.xattrIDs.end)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var list []Xattr
	budget := maxXattrBytes
	for range count {
		x, err := r.readXattr(&c, &budget)
		if err != nil {
			return nil, err
		}
		if x.Name != "" {
			list = append(list, x)
		}
	}
	return list, nil
}

// readXattr reads a name and its value and takes what they weigh from budget.
// The name is empty where its prefix is unknown: as the kernel, we pass over
// attributes of kinds that came later.
func (r *Reader) readXattr(c *metadataCursor, budget *int) (Xattr, error) {
	p, err := c.take(4)
	if err != nil {
		return Xattr{}, err
	}
	kind, size := binary.LittleEndian.Uint16(p), int(binary.LittleEndian.Uint16(p[2:]))
	if size == 0 || size > 255 { // XATTR_NAME_MAX
		return Xattr{}, corrupt("attribute name of %d bytes", size)
	}
	var suffix [255]byte
	if err := c.read(suffix[:size]); err != nil {
		return Xattr{}, err
	}
	var x Xattr
	if prefix := int(kind & xattrPrefixMask); prefix < len(xattrPrefixes) {
		x.Name = xattrPrefixes[prefix] + string(suffix[:size])
	}
	*budget -= len(x.Name) + 48 // what an Xattr takes besides
	if kind&xattrOutOfLine != 0 {
		x.Value, err = r.readDistantValue(c, budget)
	} else {
		x.Value, err = readXattrValue(c, budget)
	}
	if err != nil {
		return Xattr{}, fmt.Errorf("attribute %q: %w", x.Name, err)
	}
	return x, nil
}

func readXattrValue(c *metadataCursor, budget *int) ([]byte, error) {
	p, err := c.take(4)
	if err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(p)
	if size > 1<<16 { // XATTR_SIZE_MAX
		return nil, corrupt("value of %d bytes", size)
	}
	if *budget -= int(size); *budget < 0 {
		return nil, corrupt("attributes of more than %d bytes", maxXattrBytes)
	}
	value := make([]byte, size)
	return value, c.read(value)
}

// readDistantValue reads a value that an earlier attribute has stored.
func (r *Reader) readDistantValue(c *metadataCursor, budget *int) ([]byte, error) {
	p, err := c.take(12)
	if err != nil {
		return nil, err
	}
	if size := binary.LittleEndian.Uint32(p); size != 8 {
		return nil, corrupt("reference of %d bytes", size)
	}
	ref := Ref(binary.LittleEndian.Uint64(p[4:]))
	d, err := r.openRef(ref, r.xattrStart, r.xattrIDs.end)
	if err != nil {
		return nil, err
	}
	defer d.close()
	return readXattrValue(&d, budget)
}
