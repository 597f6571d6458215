package squashfs

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
)

// writeDedupe finds files whose content is stored already. A file that starts
// like an earlier one of its size is not stored while it goes on like it: each
// chunk (block or tail) of the same hash is compared with the stored one, which
// is faster to decode than the new one is to compress. Where they part, the
// chunks held back so far are stored after all. So nothing is ever taken back,
// and the hash's random seed decides nothing.
type writeDedupe struct {
	w          *Writer
	decompress writeDecompressor
	seed       maphash.Seed
	seen       map[writeKey]*Data
	stored     []byte // scratch: a block as stored
	chunk      []byte // scratch: a chunk, decoded
	other      []byte // scratch: another
}

// writeKey is what files must have in common to be compared.
type writeKey struct {
	size int64
	sum  uint64 // of the first chunk
}

func (x *writeDedupe) init(w *Writer, decompress writeDecompressor) {
	x.w = w
	x.decompress = decompress
	x.seed = maphash.MakeSeed()
	x.seen = map[writeKey]*Data{}
	size := w.options.BlockSize
	x.stored, x.chunk, x.other = make([]byte, size), make([]byte, size), make([]byte, size)
}

// writeFile is a file while WriteData stores it.
type writeFile struct {
	w      *Writer
	d      *Data
	twin   *Data       // an earlier file that is the same up to here, or nil
	cursor writeCursor // in twin
}

// addBlock takes the next full block.
func (f *writeFile) addBlock(b *writeBlock) error {
	index := int64(len(f.d.sums))
	same, err := f.follow(b.raw)
	if same || err != nil {
		f.w.pipe.put(b)
		return err
	}
	f.store(b, index)
	return nil
}

// addTail takes the piece after the last full block, which is never empty.
func (f *writeFile) addTail(tail []byte) error {
	index := int64(len(f.d.sums))
	same, err := f.follow(tail)
	if same || err != nil {
		return err
	}
	if isZero(tail) {
		f.d.sparse += uint64(len(tail))
		return nil
	}
	if !packsTail(f.d.size, len(tail), f.w.options.BlockSize) {
		b, err := f.w.pipe.get()
		if err != nil {
			return err
		}
		b.raw = b.raw[:copy(b.raw, tail)]
		f.store(b, index)
		return nil
	}
	return f.w.fragments.add(f.d, tail)
}

func (f *writeFile) store(b *writeBlock, index int64) {
	if isZero(b.raw) {
		f.d.sparse += uint64(len(b.raw))
		f.w.pipe.put(b)
		return
	}
	f.w.pipe.submit(b, f.d, index)
}

// end returns the file's content: the earlier one it turned out to be, or itself.
func (f *writeFile) end() *Data {
	d := f.d
	if d.size == 0 {
		return d
	}
	if f.twin != nil {
		return f.twin
	}
	seen := f.w.dedupe.seen
	key := writeKey{d.size, d.sums[0]}
	d.next = seen[key]
	seen[key] = d
	return d
}

// follow reports whether the file, with chunk as its next one, is still the
// same as an earlier one. Where it ceases to be, it stores what was held back.
func (f *writeFile) follow(chunk []byte) (bool, error) {
	x := &f.w.dedupe
	d := f.d
	d.sums = append(d.sums, maphash.Bytes(x.seed, chunk))
	held := len(d.sums) - 1
	candidate := f.twin
	if held == 0 {
		candidate = x.seen[writeKey{d.size, d.sums[0]}]
	}
	for ; candidate != nil; candidate = candidate.next {
		if !slices.Equal(candidate.sums[:held+1], d.sums) {
			continue
		}
		same, err := f.compare(candidate, chunk)
		if err != nil || same {
			return same, err
		}
	}
	err := f.restore(int64(held))
	f.twin = nil
	return false, err
}

// compare makes candidate the twin if the file is the same as it, chunk
// included.
func (f *writeFile) compare(candidate *Data, chunk []byte) (bool, error) {
	x := &f.w.dedupe
	cursor := f.cursor
	if candidate != f.twin {
		cursor = writeCursor{x: x, d: candidate}
		if f.twin != nil {
			same, err := x.samePrefix(f.twin, &cursor, len(f.d.sums)-1)
			if err != nil || !same {
				return false, err
			}
		}
	}
	theirs := x.chunk[:len(chunk)]
	if err := cursor.next(theirs); err != nil {
		return false, err
	}
	if !bytes.Equal(theirs, chunk) {
		return false, nil
	}
	f.twin, f.cursor = candidate, cursor
	return true, nil
}

// samePrefix compares the first n blocks of two earlier files and leaves
// cursor behind them.
func (x *writeDedupe) samePrefix(a *Data, cursor *writeCursor, n int) (bool, error) {
	first := writeCursor{x: x, d: a}
	for range n {
		if err := first.next(x.chunk); err != nil {
			return false, err
		}
		if err := cursor.next(x.other); err != nil {
			return false, err
		}
		if !bytes.Equal(x.chunk, x.other) {
			return false, nil
		}
	}
	return true, nil
}

// restore stores the file's first n blocks, held back because twin has them too.
func (f *writeFile) restore(n int64) error {
	if f.twin == nil {
		return nil
	}
	cursor := writeCursor{x: &f.w.dedupe, d: f.twin}
	for index := range n {
		b, err := f.w.pipe.get()
		if err != nil {
			return err
		}
		if err := cursor.next(b.raw); err != nil {
			f.w.pipe.put(b)
			return err
		}
		f.store(b, index)
	}
	return nil
}

// writeCursor reads back a stored file, chunk by chunk.
type writeCursor struct {
	x     *writeDedupe
	d     *Data
	index int64
	pos   int64 // of block index, from d.start
}

// next fills chunk, whose length is that of the next chunk.
func (c *writeCursor) next(chunk []byte) error {
	blockSize := int64(c.x.w.options.BlockSize)
	if c.index == c.d.blockCount(int(blockSize)) {
		return c.x.readTail(c.d, chunk)
	}
	if err := c.x.w.pipe.wait(c.d.seq); err != nil {
		return err
	}
	size := uint32(0)
	if c.index < int64(len(c.d.blocks)) {
		size = c.d.blocks[c.index]
	}
	if err := c.x.readBlock(chunk, c.d.start+c.pos, size); err != nil {
		return err
	}
	c.index++
	c.pos += int64(size &^ dataUncompressed)
	return nil
}

// readBlock decodes the block at pos with the stored size into raw.
func (x *writeDedupe) readBlock(raw []byte, pos int64, size uint32) error {
	if size == 0 {
		clear(raw)
		return nil
	}
	stored := x.stored[:size&^dataUncompressed]
	if size&dataUncompressed != 0 {
		stored = raw
	}
	if _, err := x.w.pipe.out.ReadAt(stored, pos); err != nil {
		return fmt.Errorf("read image back at byte %d: %w", pos, err)
	}
	if size&dataUncompressed != 0 {
		return nil
	}
	if err := x.decompress(raw, stored); err != nil {
		return fmt.Errorf("read image back at byte %d: %w", pos, err)
	}
	return nil
}

// readTail fills tail from d's fragment.
func (x *writeDedupe) readTail(d *Data, tail []byte) error {
	if d.fragment == noFragment { // a zero tail
		clear(tail)
		return nil
	}
	raw, err := x.w.fragments.content(d.fragment)
	if err != nil {
		return err
	}
	copy(tail, raw[d.fragmentOffset:])
	return nil
}

func isZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
