package squashfs

import (
	"encoding/binary"
	"fmt"
)

// metadataCursor reads a run of metadata blocks as one stream of bytes. It
// holds on to a cached block and must be closed.
type metadataCursor struct {
	r     *Reader
	block *block
	off   int    // in block.data
	end   uint64 // image offset where the table ends
	spill [64]byte
}

// openMetadata starts at byte off of the metadata block at the image's offset
// pos, in a table that ends at end.
func (r *Reader) openMetadata(pos, end uint64, off int) (metadataCursor, error) {
	if pos >= end {
		return metadataCursor{}, corrupt("metadata block at %d: the table ends at %d", pos, end)
	}
	b, err := r.meta.get(blockKey{pos: pos}, metadataSize)
	if err != nil {
		return metadataCursor{}, err
	}
	if off > len(b.data) {
		r.meta.release(b)
		return metadataCursor{}, corrupt("metadata block at %d: offset %d of %d", pos, off, len(b.data))
	}
	return metadataCursor{r: r, block: b, off: off, end: end}, nil
}

// openRef starts at a reference into the table between start and end.
func (r *Reader) openRef(ref Ref, start, end uint64) (metadataCursor, error) {
	rel := uint64(ref >> 16)
	if rel >= end-start {
		return metadataCursor{}, corrupt("reference %#x: the table has %d bytes", uint64(ref), end-start)
	}
	return r.openMetadata(start+rel, end, int(ref&0xffff))
}

func (c *metadataCursor) close() {
	if c.block != nil {
		c.r.meta.release(c.block)
		c.block = nil
	}
}

// take returns the next n bytes, at most 64. They are valid until the next call.
func (c *metadataCursor) take(n int) ([]byte, error) {
	if d := c.block.data[c.off:]; len(d) >= n {
		c.off += n
		return d[:n:n], nil
	}
	p := c.spill[:n]
	return p, c.read(p)
}

// read fills p.
func (c *metadataCursor) read(p []byte) error {
	for {
		n := copy(p, c.block.data[c.off:])
		c.off += n
		if p = p[n:]; len(p) == 0 {
			return nil
		}
		if err := c.advance(); err != nil {
			return err
		}
	}
}

// skip passes over n bytes.
func (c *metadataCursor) skip(n int) error {
	for {
		step := min(n, len(c.block.data)-c.off)
		c.off += step
		if n -= step; n == 0 {
			return nil
		}
		if err := c.advance(); err != nil {
			return err
		}
	}
}

// advance goes to the start of the following block. Each step moves at least
// three bytes through the image, so that it cannot go on for ever. The cursor
// stays closeable when it fails.
func (c *metadataCursor) advance() error {
	pos := c.block.next
	if pos >= c.end {
		return corrupt("metadata block at %d: the table ends at %d", pos, c.end)
	}
	b, err := c.r.meta.get(blockKey{pos: pos}, metadataSize)
	if err != nil {
		return err
	}
	c.r.meta.release(c.block)
	c.block, c.off = b, 0
	return nil
}

// position tells where the cursor is, so that openMetadata can return here.
func (c *metadataCursor) position() (pos uint64, off int) { return c.block.key.pos, c.off }

// loadMetadata reads and decodes the metadata block at b.key.pos into b.buf.
// One read fetches the length and what is at most behind it.
func (r *Reader) loadMetadata(b *block) error {
	pos := b.key.pos
	scratch := r.scratch.Get().(*[]byte)
	defer r.scratch.Put(scratch)
	raw := (*scratch)[:min(metadataSize+2, r.sb.BytesUsed-min(pos, r.sb.BytesUsed))]
	if len(raw) < 3 {
		return corrupt("metadata block at %d: the image ends at %d", pos, r.sb.BytesUsed)
	}
	if err := r.readFull(raw, pos); err != nil {
		return fmt.Errorf("metadata block at %d: %w", pos, err)
	}
	word := binary.LittleEndian.Uint16(raw)
	size := int(word &^ metadataUncompressed)
	if size == 0 || size > len(raw)-2 {
		return corrupt("metadata block at %d: %d bytes", pos, size)
	}
	raw = raw[2 : 2+size]
	b.next = pos + 2 + uint64(size)
	if word&metadataUncompressed != 0 {
		b.data = b.buf[:copy(b.buf[:metadataSize], raw)]
		return nil
	}
	n, err := r.comp.decompress(b.buf[:metadataSize], raw)
	if err != nil {
		return fmt.Errorf("metadata block at %d: %w", pos, err)
	}
	if n == 0 {
		return corrupt("metadata block at %d: empty", pos)
	}
	b.data = b.buf[:n]
	return nil
}
