package sif

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// Output is what an image is written to. Reading serves those who write a
// partition in place.
type Output interface {
	io.WriterAt
	io.ReaderAt
}

// Options are the parts of a new image that do not depend on its objects. The
// zero value gives what sylabs/sif calls a deterministic image: no ID and the
// time 0001-01-01.
type Options struct {
	ID       [16]byte  // a UUID; see DeriveID
	Time     time.Time // of the image, and of objects that have none
	Launch   string    // at most 31 bytes; LaunchScript for an executable image
	Capacity int       // descriptors; 0 stands for 48, as every native image has
}

// DeriveID makes an image ID from what determines the image's content: a UUID
// of version 8 (RFC 9562, 5.8) made of a SHA-256.
func DeriveID(from ...[]byte) [16]byte {
	h := sha256.New()
	for _, b := range from {
		fmt.Fprintf(h, "%d:", len(b)) // so that ("ab", "c") and ("a", "bc") differ
		h.Write(b)
	}
	id := [16]byte(h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Writer lays out a new image. Its methods are for one goroutine.
type Writer struct {
	out   Output
	h     header
	table [][descriptorSize]byte
	end   int64     // of the data so far
	open  *reserved // object between Begin and End
}

// reserved is an object whose size is not known yet.
type reserved struct {
	d       Descriptor
	padding int64
}

// NewWriter starts an image at offset 0 of out, which is empty.
func NewWriter(out Output, o Options) (*Writer, error) {
	if o.Capacity == 0 {
		o.Capacity = defaultCapacity
	}
	if len(o.Launch) >= launchLen {
		return nil, fmt.Errorf("write SIF: launch script has %d bytes, and the format room for %d", len(o.Launch), launchLen-1)
	}
	if o.Capacity < 0 || o.Capacity > maxDescriptors {
		return nil, fmt.Errorf("write SIF: capacity of %d descriptors", o.Capacity)
	}
	w := &Writer{out: out, h: header{
		Magic: magic, Version: version, Arch: archDigits(0), ID: o.ID,
		Created: o.Time.Unix(), Modified: o.Time.Unix(), Total: int64(o.Capacity),
		TableOffset: descriptorOffset, TableSize: int64(o.Capacity) * descriptorSize,
		DataOffset: descriptorOffset + int64(o.Capacity)*descriptorSize,
	}}
	copy(w.h.Launch[:], o.Launch)
	w.end = w.h.DataOffset
	return w, nil
}

// Add appends an object with its data. ID, Offset and Size of d are set here;
// times that are zero become the image's.
func (w *Writer) Add(d Descriptor, data []byte) (Descriptor, error) {
	section, err := w.Begin(d)
	if err != nil {
		return Descriptor{}, err
	}
	if _, err := section.WriteAt(data, 0); err != nil {
		return Descriptor{}, fmt.Errorf("write SIF: %w", err)
	}
	return w.End(int64(len(data)))
}

// Begin appends an object that the caller writes into the returned section,
// which starts at the object's offset. End must follow before any other
// object.
func (w *Writer) Begin(d Descriptor) (*Section, error) {
	if w.open != nil {
		return nil, fmt.Errorf("write SIF: object %d is not ended", w.open.d.ID)
	}
	if len(w.table) >= int(w.h.Total) {
		return nil, fmt.Errorf("write SIF: all %d descriptors are used", w.h.Total)
	}
	d.ID = uint32(len(w.table)) + 1
	if err := w.admit(&d); err != nil {
		return nil, fmt.Errorf("write SIF: %v: %w", d, err)
	}
	d.Offset = w.end
	if d.Type == DataPartition {
		d.Offset = (w.end + partitionAlign - 1) / partitionAlign * partitionAlign
	}
	w.open = &reserved{d, d.Offset - w.end}
	return &Section{w.out, d.Offset}, nil
}

// admit completes d and refuses what the format cannot express.
func (w *Writer) admit(d *Descriptor) error {
	if d.Created.IsZero() {
		d.Created = time.Unix(w.h.Created, 0)
	}
	if d.Modified.IsZero() {
		d.Modified = time.Unix(w.h.Modified, 0)
	}
	if _, err := d.encode(0); err != nil {
		return err
	}
	if d.Type != DataPartition {
		return nil
	}
	p, err := d.Partition()
	if err != nil || p.Type != PartPrimary {
		return err
	}
	if w.h.Arch != archDigits(0) {
		return errors.New("image has a primary partition already")
	}
	if w.h.Arch, err = archCode(p.Arch); err != nil {
		return err
	}
	return nil
}

// End completes the object that Begin started, of size bytes.
func (w *Writer) End(size int64) (Descriptor, error) {
	if w.open == nil {
		return Descriptor{}, errors.New("write SIF: no object was begun")
	}
	if size < 0 || size > math.MaxInt64-w.open.d.Offset {
		return Descriptor{}, fmt.Errorf("write SIF: object of %d bytes", size)
	}
	w.open.d.Size = size
	entry, err := w.open.d.encode(w.open.padding)
	if err != nil {
		return Descriptor{}, fmt.Errorf("write SIF: %w", err)
	}
	d := w.open.d
	w.table, w.end, w.open = append(w.table, entry), d.end(), nil
	return d, nil
}

// Size is the number of bytes of the image so far.
func (w *Writer) Size() int64 { return w.end }

// Close writes the table and then the header. It does not close the output.
func (w *Writer) Close() error {
	if w.open != nil {
		return fmt.Errorf("write SIF: object %d is not ended", w.open.d.ID)
	}
	w.h.Free = w.h.Total - int64(len(w.table))
	w.h.DataSize = w.end - w.h.DataOffset
	table := make([]byte, 0, w.h.TableSize)
	for _, entry := range w.table {
		table = append(table, entry[:]...)
	}
	if _, err := w.out.WriteAt(table[:w.h.TableSize], w.h.TableOffset); err != nil {
		return fmt.Errorf("write SIF: %w", err)
	}
	head, err := binary.Append(nil, binary.LittleEndian, w.h)
	if err != nil {
		return fmt.Errorf("write SIF: %w", err)
	}
	if _, err := w.out.WriteAt(head, 0); err != nil {
		return fmt.Errorf("write SIF: %w", err)
	}
	return nil
}

// Section is an object's place in an image that is being written.
type Section struct {
	out Output
	// Offset is where the section starts in the file, in bytes.
	Offset int64
}

// WriteAt writes to the section.
func (s *Section) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > math.MaxInt64-s.Offset {
		return 0, errors.New("write outside of a SIF object")
	}
	return s.out.WriteAt(p, s.Offset+off)
}

// ReadAt reads what was written to the section.
func (s *Section) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > math.MaxInt64-s.Offset {
		return 0, errors.New("read outside of a SIF object")
	}
	return s.out.ReadAt(p, s.Offset+off)
}

var _ Output = (*Section)(nil)
