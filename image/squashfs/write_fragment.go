package squashfs

// writeFragments packs small files together into blocks. The tails of larger
// files become short blocks beside the rest of the file, as mksquashfs does it:
// packed as well, they make the image of a Debian tree 0.06 % larger and cost a
// reader the decoding of a whole fragment block each.
type writeFragments struct {
	w      *Writer
	block  *writeBlock      // being filled, or nil
	list   []*writeFragment // all so far, that being filled included
	recent [4]recentFragment
	evict  int // the next of recent to be replaced
}

// writeFragment is an entry of the fragment table.
type writeFragment struct {
	length int    // bytes before compression
	seq    uint64 // its number in the pipe

	// Set by the pipe, valid once it has passed seq.
	start int64  // offset in the image
	size  uint32 // as stored, with the flag
}

// recentFragment is a fragment block as it was before compression, kept for
// comparing duplicates.
type recentFragment struct {
	number uint32
	raw    []byte // nil: unused
}

// add appends the content of d, a small file, to a fragment.
func (f *writeFragments) add(d *Data, content []byte) error {
	if f.block != nil && len(f.block.raw)+len(content) > f.w.options.BlockSize {
		f.flush()
	}
	if f.block == nil {
		b, err := f.w.pipe.get()
		if err != nil {
			return err
		}
		b.raw = b.raw[:0]
		f.block = b
		f.list = append(f.list, &writeFragment{})
	}
	d.fragment = uint32(len(f.list) - 1)
	d.fragmentOffset = uint32(len(f.block.raw))
	f.block.raw = append(f.block.raw, content...)
	return nil
}

// flush submits the fragment being filled, if any.
func (f *writeFragments) flush() {
	if f.block == nil {
		return
	}
	number := len(f.list) - 1
	entry := f.list[number]
	entry.length = len(f.block.raw)
	copy(f.remember(uint32(number), entry.length), f.block.raw)
	f.w.pipe.submitFragment(f.block, entry)
	f.block = nil
}

// read fills content from d's fragment.
func (f *writeFragments) read(content []byte, d *Data) error {
	raw, err := f.raw(d.fragment)
	if err != nil {
		return err
	}
	copy(content, raw[d.fragmentOffset:])
	return nil
}

// raw returns a fragment block, uncompressed, valid until the next call.
func (f *writeFragments) raw(number uint32) ([]byte, error) {
	if f.block != nil && int(number) == len(f.list)-1 {
		return f.block.raw, nil
	}
	for _, r := range f.recent {
		if r.raw != nil && r.number == number {
			return r.raw, nil
		}
	}
	entry := f.list[number]
	if err := f.w.pipe.wait(entry.seq); err != nil {
		return nil, err
	}
	raw := f.remember(number, entry.length)
	return raw, f.w.dedupe.readBlock(raw, entry.start, entry.size)
}

// remember makes room for a fragment block in recent, to be filled by the caller.
func (f *writeFragments) remember(number uint32, length int) []byte {
	r := &f.recent[f.evict]
	f.evict = (f.evict + 1) % len(f.recent)
	if r.raw == nil {
		r.raw = make([]byte, f.w.options.BlockSize)
	}
	r.number, r.raw = number, r.raw[:length]
	return r.raw
}
