package squashfs

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
)

// Limits of Linux, from limits.h: in bytes, prefix included.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

// A value met before is referred to, if that saves more than compression
// would: the reference takes 8 bytes that do not compress, and a seek to read.
const minOutOfLine = 32

// writeXattrs builds the xattr tables: each distinct set of attributes once,
// each long value once.
type writeXattrs struct {
	meta    *writeMeta
	sets    map[string]uint32 // numbers, by the encoded set
	values  map[string]uint64 // where long values lie
	table   []byte            // of sets, 16 bytes each
	dropped map[string]bool
}

func newWriteXattrs(c writeCompressor, dropped map[string]bool) *writeXattrs {
	return &writeXattrs{
		meta:    newWriteMeta(c),
		sets:    map[string]uint32{},
		values:  map[string]uint64{},
		dropped: dropped,
	}
}

// add returns the number of the set with these attributes.
func (t *writeXattrs) add(xattrs []Xattr) (uint32, error) {
	if len(xattrs) == 0 {
		return noXattr, nil
	}
	byName := make(map[string][]byte, len(xattrs))
	for _, x := range xattrs {
		if prefix, _ := splitXattr(x.Name); prefix < 0 || len(x.Name) > maxXattrName || len(x.Value) > maxXattrValue {
			t.dropped[x.Name] = true
			continue
		}
		byName[x.Name] = x.Value
	}
	if len(byName) == 0 {
		return noXattr, nil
	}
	names := sortedKeys(byName)
	key := setKey(names, byName)
	if number, ok := t.sets[key]; ok {
		return number, nil
	}
	number := uint32(len(t.table) / xattrIDSize)
	if number == noXattr {
		return 0, errors.New("too many sets of extended attributes")
	}
	t.sets[key] = number
	t.write(names, byName)
	return number, nil
}

// setKey tells sets apart.
func setKey(names []string, values map[string][]byte) string {
	var b []byte
	for _, name := range names {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
		b = binary.AppendUvarint(b, uint64(len(values[name])))
		b = append(b, values[name]...)
	}
	return string(b)
}

func (t *writeXattrs) write(names []string, values map[string][]byte) {
	le := binary.LittleEndian
	ref := t.meta.ref()
	size := 0 // what listing and reading all of the set needs, as mksquashfs counts
	for _, name := range names {
		value := values[name]
		size += len(name) + 1 + len(value)
		prefix, rest := splitXattr(name)
		place, again := t.values[string(value)]
		if again {
			prefix |= xattrOutOfLine
		}
		b := le.AppendUint16(nil, uint16(prefix))
		b = le.AppendUint16(b, uint16(len(rest)))
		t.meta.write(append(b, rest...))
		if again {
			b = le.AppendUint32(b[:0], 8)
			t.meta.write(le.AppendUint64(b, place))
			continue
		}
		if len(value) >= minOutOfLine {
			t.values[string(value)] = t.meta.ref()
		}
		b = le.AppendUint32(b[:0], uint32(len(value)))
		t.meta.write(append(b, value...))
	}
	t.table = le.AppendUint64(t.table, ref)
	t.table = le.AppendUint32(t.table, uint32(len(names)))
	t.table = le.AppendUint32(t.table, uint32(size))
}

// splitXattr returns the number of name's prefix and what follows it; -1 for a
// name that the format cannot hold.
func splitXattr(name string) (prefix int, rest string) {
	for i, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p); ok && rest != "" && !strings.Contains(rest, "\x00") {
			return i, rest
		}
	}
	return -1, ""
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
