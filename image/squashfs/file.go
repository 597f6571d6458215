package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// A block is found by adding up the stored sizes of those before it. Files of
// more than indexStep blocks remember the sum every so many blocks, or in
// maxMarks places, so that a hostile image cannot fill memory with them.
const (
	indexStep = 512
	maxMarks  = 4096
)

// blockIndex lets a read in the middle of a long file start there.
type blockIndex struct {
	step  uint64 // blocks
	mu    sync.Mutex
	marks []blockMark // one every step blocks, the first for block 0; as far as anybody went
}

// blockMark is a place in a file's list of block sizes.
type blockMark struct {
	tail inodeTail // of the block's size
	pos  uint64    // image offset of the block's content
}

// extent is a stored block of a file.
type extent struct {
	pos  uint64 // image offset
	word uint32 // as on disk: size and flag; zero is a hole
	size int    // decoded bytes
}

// ReadAt reads a regular file's content into p from its offset off, with the
// semantics of io.ReaderAt. Blocks that p covers completely are decoded
// straight into it.
func (r *Reader) ReadAt(in *Inode, p []byte, off int64) (int, error) {
	if in.IsDir() {
		return 0, fmt.Errorf("read file %#x: %w", uint64(in.Ref), unix.EISDIR)
	}
	if !in.IsRegular() {
		return 0, fmt.Errorf("read file %#x: %w", uint64(in.Ref), unix.EINVAL)
	}
	if off < 0 {
		return 0, fmt.Errorf("read file %#x: %w", uint64(in.Ref), unix.EINVAL)
	}
	if uint64(off) >= in.Size {
		return 0, io.EOF
	}
	short := uint64(len(p)) > in.Size-uint64(off)
	if short {
		p = p[:in.Size-uint64(off)]
	}
	r.ahead.note(in, uint64(off), uint64(len(p)))
	r.ahead.enter()
	defer r.ahead.leave()
	n, err := r.readBlocks(in, p, uint64(off))
	if err == nil && n < len(p) {
		var m int
		m, err = r.readTail(in, p[n:], uint64(off)+uint64(n))
		n += m
	}
	if err != nil {
		return n, fmt.Errorf("read file %#x at %d: %w", uint64(in.Ref), off+int64(n), err)
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// readBlocks reads what lies in blocks of the file's own.
func (r *Reader) readBlocks(in *Inode, p []byte, off uint64) (int, error) {
	bs := uint64(r.sb.BlockSize)
	first := off / bs
	if first >= in.blockCount || len(p) == 0 {
		return 0, nil
	}
	c, pos, err := r.openBlocks(in, first)
	if err != nil {
		return 0, err
	}
	defer c.close()
	n := 0
	for i := first; i < in.blockCount && n < len(p); i++ {
		e := extent{pos: pos, size: int(min(bs, in.Size-i*bs))}
		if e.word, err = c.blockSize(); err != nil {
			return n, err
		}
		pos += uint64(e.word &^ dataUncompressed)
		m, err := r.readExtent(e, p[n:], int(off+uint64(n)-i*bs))
		if err != nil {
			return n, fmt.Errorf("block %d: %w", i, err)
		}
		n += m
	}
	return n, nil
}

// blockSize reads the next entry of a file's list of block sizes.
func (c *metadataCursor) blockSize() (uint32, error) {
	p, err := c.take(4)
	if err != nil {
		return 0, err
	}
	word := binary.LittleEndian.Uint32(p)
	if word&^dataUncompressed > c.r.sb.BlockSize {
		return 0, corrupt("block of %d bytes", word&^dataUncompressed)
	}
	return word, nil
}

// openBlocks returns a cursor at the size of block i, and the block's place.
func (r *Reader) openBlocks(in *Inode, i uint64) (metadataCursor, uint64, error) {
	mark := blockMark{tail: in.tail, pos: in.blocksStart}
	if in.index != nil {
		var err error
		if mark, err = r.mark(in, i/in.index.step); err != nil {
			return metadataCursor{}, 0, err
		}
		i %= in.index.step
	}
	c, err := r.openMetadata(mark.tail.pos, r.inodeEnd, mark.tail.off)
	if err != nil {
		return metadataCursor{}, 0, err
	}
	sum, err := c.sumBlocks(int(i))
	if err != nil {
		c.close()
		return metadataCursor{}, 0, err
	}
	return c, mark.pos + sum, nil
}

// sumBlocks passes over n block sizes and returns their sum.
func (c *metadataCursor) sumBlocks(n int) (uint64, error) {
	var sum uint64
	for n > 0 {
		d := c.block.data[c.off:]
		whole := min(n, len(d)/4)
		for i := range whole {
			sum += uint64(binary.LittleEndian.Uint32(d[i*4:]) &^ dataUncompressed)
		}
		c.off += whole * 4
		if n -= whole; n == 0 {
			break
		}
		word, err := c.blockSize() // spans two metadata blocks
		if err != nil {
			return 0, err
		}
		sum += uint64(word &^ dataUncompressed)
		n--
	}
	return sum, nil
}

// mark returns the i-th mark of a long file, reading the list of sizes up to
// there if nobody has yet.
func (r *Reader) mark(in *Inode, i uint64) (blockMark, error) {
	x := in.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.marks) == 0 {
		x.marks = append(x.marks, blockMark{in.tail, in.blocksStart})
	}
	if i < uint64(len(x.marks)) {
		return x.marks[i], nil
	}
	last := x.marks[len(x.marks)-1]
	c, err := r.openMetadata(last.tail.pos, r.inodeEnd, last.tail.off)
	if err != nil {
		return blockMark{}, err
	}
	defer c.close()
	for uint64(len(x.marks)) <= i {
		sum, err := c.sumBlocks(int(x.step))
		if err != nil {
			return blockMark{}, err
		}
		last.pos += sum
		last.tail.pos, last.tail.off = c.position()
		x.marks = append(x.marks, last)
	}
	return last, nil
}

// readTail reads what lies in the file's fragment.
func (r *Reader) readTail(in *Inode, p []byte, off uint64) (int, error) {
	if in.fragment == noFragment {
		return 0, nil
	}
	key, err := r.fragmentKey(in.fragment)
	if err != nil {
		return 0, fmt.Errorf("fragment %d: %w", in.fragment, err)
	}
	r.ahead.noteTail(in.fragment)
	b, err := r.data.get(key, int(r.sb.BlockSize))
	if err != nil {
		return 0, fmt.Errorf("fragment %d: %w", in.fragment, err)
	}
	defer r.data.release(b)
	start := uint64(in.fragmentOff)
	end := start + in.Size%uint64(r.sb.BlockSize)
	if end > uint64(len(b.data)) {
		return 0, fmt.Errorf("fragment %d: %w", in.fragment,
			corrupt("bytes %d to %d of %d", start, end, len(b.data)))
	}
	skip := off - in.blockCount*uint64(r.sb.BlockSize)
	return copy(p, b.data[start+skip:end]), nil
}

// fragmentKey returns where a fragment block lies.
func (r *Reader) fragmentKey(i uint32) (blockKey, error) {
	var raw [16]byte
	if err := r.record(&r.fragments, uint64(i), raw[:]); err != nil {
		return blockKey{}, err
	}
	key := blockKey{binary.LittleEndian.Uint64(raw[:]), binary.LittleEndian.Uint32(raw[8:])}
	return key, r.checkStored(key, int(r.sb.BlockSize))
}

// readExtent copies a block's bytes from skip on to p, as many as there are.
func (r *Reader) readExtent(e extent, p []byte, skip int) (int, error) {
	p = p[:min(len(p), e.size-skip)]
	if e.word == 0 {
		clear(p)
		return len(p), nil
	}
	key := blockKey{e.pos, e.word}
	if err := r.checkStored(key, e.size); err != nil {
		return 0, err
	}
	if len(p) == e.size {
		b := r.data.peek(key)
		if b == nil {
			return r.decodeInto(p, key)
		}
		// It was decoded ahead and will hardly be wanted again.
		defer r.data.discard(b)
		return b.copyTo(p, 0, e.size)
	}
	b, err := r.data.get(key, e.size)
	if err != nil {
		return 0, err
	}
	defer r.data.release(b)
	return b.copyTo(p, skip, e.size)
}

// copyTo copies data from skip on, which must have size bytes in all.
func (b *block) copyTo(p []byte, skip, size int) (int, error) {
	if len(b.data) != size {
		return 0, corrupt("%d bytes, want %d", len(b.data), size)
	}
	return copy(p, b.data[skip:]), nil
}

// decodeInto decodes a block that must have len(p) bytes.
func (r *Reader) decodeInto(p []byte, key blockKey) (int, error) {
	n, err := r.decodeBlock(p, key)
	if err != nil {
		return 0, err
	}
	if n != len(p) {
		return 0, corrupt("%d bytes, want %d", n, len(p))
	}
	return n, nil
}

// checkStored checks where a block lies and how long it is, stored and decoded.
func (r *Reader) checkStored(key blockKey, size int) error {
	stored := uint64(key.word &^ dataUncompressed)
	switch {
	case stored == 0 || stored > uint64(r.sb.BlockSize):
		return corrupt("block of %d bytes", stored)
	case key.pos < superblockSize || key.pos > r.sb.BytesUsed || stored > r.sb.BytesUsed-key.pos:
		return corrupt("block of %d bytes at %d: the image ends at %d", stored, key.pos, r.sb.BytesUsed)
	case key.word&dataUncompressed != 0 && stored > uint64(size):
		return corrupt("block of %d bytes, want %d", stored, size)
	}
	return nil
}

// loadData decodes a block into the cache.
func (r *Reader) loadData(b *block) error {
	n, err := r.decodeBlock(b.buf, b.key)
	b.data = b.buf[:n]
	return err
}

// decodeBlock decodes a stored block, which checkStored has passed, into p.
func (r *Reader) decodeBlock(p []byte, key blockKey) (int, error) {
	size := int(key.word &^ dataUncompressed)
	if key.word&dataUncompressed != 0 {
		return size, r.readFull(p[:size], key.pos)
	}
	scratch := r.scratch.Get().(*[]byte)
	defer r.scratch.Put(scratch)
	raw := (*scratch)[:size]
	if err := r.readFull(raw, key.pos); err != nil {
		return 0, err
	}
	return r.comp.decompress(p, raw)
}
