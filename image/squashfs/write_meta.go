package squashfs

import "encoding/binary"

// writeMeta packs a stream of bytes into compressed metadata blocks of 8 KiB.
// The first error of the compressor stays.
type writeMeta struct {
	c      writeCompressor
	out    []byte // finished blocks, each with its header
	raw    []byte // the block being filled, never full
	packed []byte // scratch
	err    error
}

func newWriteMeta(c writeCompressor) *writeMeta {
	return &writeMeta{c: c, raw: make([]byte, 0, metadataSize)}
}

// position is where the next byte goes: the offset of its block among the
// compressed blocks, and its offset in the block.
func (m *writeMeta) position() (block int64, offset uint16) {
	return int64(len(m.out)), uint16(len(m.raw))
}

// ref is position as an inode reference.
func (m *writeMeta) ref() uint64 {
	block, offset := m.position()
	return uint64(block)<<16 | uint64(offset)
}

func (m *writeMeta) write(p []byte) {
	for len(p) > 0 {
		n := min(len(p), metadataSize-len(m.raw))
		m.raw = append(m.raw, p[:n]...)
		p = p[n:]
		if len(m.raw) == metadataSize {
			m.flush()
		}
	}
}

// flush ends the block being filled, if it is not empty.
func (m *writeMeta) flush() {
	if len(m.raw) == 0 || m.err != nil {
		m.raw = m.raw[:0]
		return
	}
	m.packed, m.err = m.c.compress(m.packed, m.raw)
	header, body := uint16(len(m.packed)), m.packed
	if len(m.packed) >= len(m.raw) {
		header, body = uint16(len(m.raw))|metadataUncompressed, m.raw
	}
	m.out = binary.LittleEndian.AppendUint16(m.out, header)
	m.out = append(m.out, body...)
	m.raw = m.raw[:0]
}
