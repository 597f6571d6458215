package sif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// ErrNotSIF means that a file has no SIF header.
var ErrNotSIF = errors.New("not a SIF file")

// ErrNoPrimary means that a SIF has no primary system partition: it is an
// OCI-SIF, or holds data only.
var ErrNoPrimary = errors.New("no primary system partition")

// IsSIF tells whether a file that begins with head is a SIF. It needs 42 bytes.
func IsSIF(head []byte) bool {
	return len(head) >= magicOffset+len(magic) && bytes.Equal(head[magicOffset:magicOffset+len(magic)], magic[:])
}

// File is a SIF opened by Read.
type File struct {
	Launch            string // the script in the file's first line
	Arch              string // of the primary partition: a GOARCH name or UnknownArch
	ID                [16]byte
	Created, Modified time.Time
	Capacity          int          // descriptors in the table, used or not
	DataOffset        int64        // bytes
	Descriptors       []Descriptor // the used ones, in the table's order

	r io.ReaderAt
}

// Read reads header and descriptors of a SIF of size bytes. It checks that the
// objects lie inside the file, beside each other. The data are read later,
// from r.
func Read(r io.ReaderAt, size int64) (*File, error) {
	// As much as header and table of a native image take, in one read.
	head := make([]byte, min(size, descriptorOffset+defaultCapacity*descriptorSize))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return nil, fmt.Errorf("read SIF header: %w", err)
	}
	if !IsSIF(head) {
		return nil, ErrNotSIF
	}
	h, err := parseHeader(head, size)
	if err != nil {
		return nil, fmt.Errorf("read SIF header: %w", err)
	}
	table := head
	if end := h.TableOffset + h.Total*descriptorSize; end <= int64(len(head)) {
		table = head[h.TableOffset:end]
	} else {
		table = make([]byte, h.Total*descriptorSize)
		if n, err := r.ReadAt(table, h.TableOffset); n < len(table) {
			return nil, fmt.Errorf("read SIF descriptors: %w", err)
		}
	}
	f := &File{
		Launch: text(h.Launch[:]), Arch: archName(h.Arch), ID: h.ID,
		Created: time.Unix(h.Created, 0), Modified: time.Unix(h.Modified, 0),
		Capacity: int(h.Total), DataOffset: h.DataOffset, Descriptors: parseTable(table), r: r,
	}
	if err := f.check(h, size); err != nil {
		return nil, fmt.Errorf("read SIF descriptors: %w", err)
	}
	return f, nil
}

func parseHeader(head []byte, size int64) (header, error) {
	var h header
	if _, err := binary.Decode(head, binary.LittleEndian, &h); err != nil {
		return h, io.ErrUnexpectedEOF
	}
	switch {
	case h.Version != version:
		return h, fmt.Errorf("version %q is unknown", text(h.Version[:]))
	case h.Total < 0 || h.Total > maxDescriptors:
		return h, fmt.Errorf("%d descriptors", h.Total)
	case h.TableOffset < headerSize || h.TableOffset > size || h.Total*descriptorSize > size-h.TableOffset:
		return h, fmt.Errorf("%d descriptors at %d in a file of %d bytes: %w", h.Total, h.TableOffset, size, io.ErrUnexpectedEOF)
	case h.TableSize < h.Total*descriptorSize:
		return h, fmt.Errorf("%d descriptors in %d bytes", h.Total, h.TableSize)
	}
	return h, nil
}

func parseTable(table []byte) []Descriptor {
	var all []Descriptor
	for ; len(table) >= descriptorSize; table = table[descriptorSize:] {
		if inUse := table[4] != 0; inUse {
			all = append(all, decodeDescriptor(table))
		}
	}
	return all
}

// check refuses objects outside of the file, over one another or over the
// header and the table, and descriptors that cannot be told apart.
func (f *File) check(h header, size int64) error {
	ids := make(map[uint32]bool, len(f.Descriptors))
	for _, d := range f.Descriptors {
		if d.Offset < 0 || d.Size < 0 || d.Offset > size || d.Size > size-d.Offset {
			return fmt.Errorf("%v has %d bytes at %d, and the file %d: %w", d, d.Size, d.Offset, size, io.ErrUnexpectedEOF)
		}
		if d.ID == 0 || ids[d.ID] {
			return fmt.Errorf("%v: number is zero or taken", d)
		}
		ids[d.ID] = true
	}
	byOffset := slices.Clone(f.Descriptors)
	slices.SortStableFunc(byOffset, func(a, b Descriptor) int { return int(min(max(a.Offset-b.Offset, -1), 1)) })
	used := h.TableOffset + h.Total*descriptorSize
	for _, d := range byOffset {
		if d.Size == 0 {
			continue
		}
		if d.Offset < used {
			return fmt.Errorf("%v at %d overlaps what ends at %d", d, d.Offset, used)
		}
		used = d.end()
	}
	return nil
}

// Primary returns the partition with the image's root file system. Its error
// is ErrNoPrimary where there is none.
func (f *File) Primary() (Descriptor, Partition, error) {
	for _, d := range f.Descriptors {
		if d.Type != DataPartition {
			continue
		}
		if p, err := d.Partition(); err == nil && p.Type == PartPrimary {
			return d, p, nil
		}
	}
	return Descriptor{}, Partition{}, ErrNoPrimary
}

// Find returns the first object of a type, and with a name unless that is
// empty.
func (f *File) Find(t DataType, name string) (Descriptor, bool) {
	for _, d := range f.Descriptors {
		if d.Type == t && (name == "" || d.Name == name) {
			return d, true
		}
	}
	return Descriptor{}, false
}

// IsOCI tells whether the file is an OCI-SIF: a SIF that holds an OCI image
// layout instead of a root file system.
func (f *File) IsOCI() bool {
	_, ok := f.Find(DataOCIRootIndex, "")
	return ok
}

// Open returns the data of an object.
func (f *File) Open(d Descriptor) *io.SectionReader {
	return io.NewSectionReader(f.r, d.Offset, d.Size)
}

// Data reads the whole of an object of at most limit bytes.
func (f *File) Data(d Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("read %v: %d bytes are more than %d", d, d.Size, limit)
	}
	data := make([]byte, d.Size)
	if n, err := f.r.ReadAt(data, d.Offset); n < len(data) {
		return nil, fmt.Errorf("read %v: %w", d, err)
	}
	return data, nil
}
