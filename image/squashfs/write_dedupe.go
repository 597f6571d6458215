package squashfs

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
)

// writeDedupe finds files whose content is stored already. A file that starts
// like an earlier one of its size is not stored while it goes on like it: each
// block of the same hash is compared with the stored one, which is faster to
// decode than the new one is to compress. Where they part, the blocks held back
// so far are stored after all. So nothing is ever taken back, and the hash's
// random seed decides nothing.
type writeDedupe struct {
	w          *Writer
	decompress decompressor
	seed       maphash.Seed
	seen       map[writeKey]*Data
	stored     []byte // scratch: a block as stored
	block      []byte // scratch: a block, decoded
	other      []byte // scratch: another
}

// writeKey is what files must have in common to be compared.
type writeKey struct {
	size int64
	sum  uint64 // of the first block
}

func (x *writeDedupe) init(w *Writer) error {
	x.w = w
	x.seed = maphash.MakeSeed()
	x.seen = map[writeKey]*Data{}
	size := w.options.BlockSize
	x.stored, x.block, x.other = make([]byte, size), make([]byte, size), make([]byte, size)
	return x.decompress.init(w.options.Compression, size)
}

// writeFile is a file while WriteData stores it.
type writeFile struct {
	w      *Writer
	d      *Data
	twin   *Data       // an earlier file that is the same up to here, or nil
	cursor writeCursor // in twin
}

// add takes the next block, or the short one at the end.
func (f *writeFile) add(b *writeBlock) error {
	same, err := f.follow(b.raw)
	if same || err != nil {
		f.w.pipe.put(b)
		return err
	}
	f.store(b, int64(len(f.d.sums)-1))
	return nil
}

// addSmall takes the whole content of a file smaller than a block.
func (f *writeFile) addSmall(content []byte) error {
	same, err := f.follow(content)
	if same || err != nil {
		return err
	}
	if isZero(content) {
		f.d.sparse = uint64(len(content))
		return nil
	}
	return f.w.fragments.add(f.d, content)
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

// follow reports whether the file, with block as its next one, is still the
// same as an earlier one. Where it ceases to be, it stores what was held back.
func (f *writeFile) follow(block []byte) (bool, error) {
	x := &f.w.dedupe
	d := f.d
	d.sums = append(d.sums, maphash.Bytes(x.seed, block))
	held := len(d.sums) - 1
	candidate := f.twin
	if held == 0 {
		candidate = x.seen[writeKey{d.size, d.sums[0]}]
	}
	for ; candidate != nil; candidate = candidate.next {
		if candidate.sums[held] != d.sums[held] {
			continue
		}
		if candidate != f.twin && !slices.Equal(candidate.sums[:held], d.sums[:held]) {
			continue
		}
		same, err := f.compare(candidate, block)
		if err != nil || same {
			return same, err
		}
	}
	err := f.restore(int64(held))
	f.twin = nil
	return false, err
}

// compare makes candidate the twin if the file is the same as it, block
// included.
func (f *writeFile) compare(candidate *Data, block []byte) (bool, error) {
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
	theirs := x.block[:len(block)]
	if err := cursor.next(theirs); err != nil {
		return false, err
	}
	if !bytes.Equal(theirs, block) {
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
		if err := first.next(x.block); err != nil {
			return false, err
		}
		if err := cursor.next(x.other); err != nil {
			return false, err
		}
		if !bytes.Equal(x.block, x.other) {
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

// writeCursor reads back a stored file, block by block.
type writeCursor struct {
	x     *writeDedupe
	d     *Data
	index int64
	pos   int64 // of block index, from d.start
}

// next fills block, whose length is that of the next block.
func (c *writeCursor) next(block []byte) error {
	if c.d.fragment != noFragment {
		return c.x.w.fragments.read(block, c.d)
	}
	if err := c.x.w.pipe.wait(c.d.seq); err != nil {
		return err
	}
	size := uint32(0)
	if c.index < int64(len(c.d.blocks)) {
		size = c.d.blocks[c.index]
	}
	if err := c.x.readBlock(block, c.d.start+c.pos, size); err != nil {
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
	n, err := x.decompress.decompress(raw, stored)
	if err == nil && n != len(raw) {
		err = ErrCorrupt
	}
	if err != nil {
		return fmt.Errorf("read image back at byte %d: %w", pos, err)
	}
	return nil
}

func isZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
