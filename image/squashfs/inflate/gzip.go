package inflate

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// ErrGzip tells that the input is not a gzip file, or that a checksum is wrong.
var ErrGzip = errors.New("corrupt gzip file")

const (
	windowSize = 32 << 10 // how far back a match reaches
	// The output is decoded in pieces of this size, and the input read so: they
	// stay in the processor's second-level cache, and a header fits.
	streamOut = 128 << 10
	streamIn  = 64 << 10
	// maxBlockHeader is more than the codes of a block take: 3 + 14 + 19*3 bits
	// and 316 lengths of at most 14 bits, with what the bit buffer holds.
	maxBlockHeader = 1 << 10
)

// Reader decodes a gzip file (RFC 1952) of any number of members as it is read.
// Its checksums are verified. A file that ends early is io.ErrUnexpectedEOF.
//
// It runs the loops of [Zlib] until one of its buffers is used up, and then
// slides the output's last 32 KiB, the window, to the start.
type Reader struct {
	d     decoder
	src   io.Reader
	input []byte // d.in is its filled part
	ended bool   // src has no more
	given int    // of d.out, what Read has returned
	next  func() error
	err   error

	last    bool // the present block is the member's last
	stored  int  // bytes to come of a block that is not compressed
	members int

	sum   uint32 // CRC-32 of the member so far
	size  uint32 // its length, modulo 1<<32
	added int    // of d.out, what sum and size count
}

// NewReader starts to decode r. It reads beyond the gzip file's end.
func NewReader(r io.Reader) *Reader {
	z := &Reader{src: r, input: make([]byte, streamIn)}
	z.d.reset(make([]byte, windowSize+streamOut+outSlack), nil)
	z.next = z.header
	return z
}

// Read decodes into p.
func (z *Reader) Read(p []byte) (int, error) {
	for z.given == z.d.outPos && len(p) > 0 {
		if z.err != nil {
			return 0, z.err
		}
		z.slide()
		z.err = z.next()
		z.count()
		switch z.err {
		case ErrTruncated:
			z.err = io.ErrUnexpectedEOF
		case ErrCorrupt:
			z.err = ErrGzip
		}
	}
	n := copy(p, z.d.out[z.given:z.d.outPos])
	z.given += n
	return n, nil
}

// slide makes room in the output, all of which was given away.
func (z *Reader) slide() {
	if z.d.outPos < windowSize+streamOut {
		return
	}
	copy(z.d.out, z.d.out[z.d.outPos-windowSize:z.d.outPos])
	z.d.outPos, z.given, z.added = windowSize, windowSize, windowSize
}

// count adds what was decoded to the checksum.
func (z *Reader) count() {
	p := z.d.out[z.added:z.d.outPos]
	z.sum = crc32.Update(z.sum, crc32.IEEETable, p)
	z.size += uint32(len(p))
	z.added = z.d.outPos
}

// need reads until n bytes of input are there, or no more come.
func (z *Reader) need(n int) error {
	d := &z.d
	if len(d.in)-d.inPos >= n || z.ended {
		return nil
	}
	// The bytes before inPos that the bit buffer holds may be given back.
	keep := max(d.inPos-8, 0)
	have := copy(z.input, d.in[keep:])
	d.inPos -= keep
	for empty := 0; have-d.inPos < n && !z.ended; {
		m, err := z.src.Read(z.input[have:])
		have += m
		if err == io.EOF {
			z.ended = true
		} else if err != nil {
			d.in = z.input[:have]
			return err
		}
		if empty++; m > 0 {
			empty = 0
		}
		if empty > 100 {
			return io.ErrNoProgress
		}
	}
	d.in = z.input[:have]
	return nil
}

// The steps of a file follow. Each decodes what there is room for, and sets the
// step that comes next.

// header reads a member's header (RFC 1952, section 2.3).
func (z *Reader) header() error {
	if err := z.need(10); err != nil {
		return err
	}
	h := z.d.in[z.d.inPos:]
	if len(h) == 0 && z.members > 0 {
		return io.EOF
	}
	if len(h) < 10 {
		return ErrTruncated
	}
	flags := h[3]
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 || flags&0xe0 != 0 {
		return ErrGzip
	}
	z.d.inPos += 10
	if flags&4 != 0 { // extra field
		if err := z.need(2); err != nil {
			return err
		}
		if h = z.d.in[z.d.inPos:]; len(h) < 2 {
			return ErrTruncated
		}
		z.d.inPos += 2
		if err := z.skip(int(binary.LittleEndian.Uint16(h))); err != nil {
			return err
		}
	}
	for _, flag := range [...]byte{8, 16} { // file name, comment
		if flags&flag != 0 {
			if err := z.skipText(); err != nil {
				return err
			}
		}
	}
	if flags&2 != 0 { // a checksum of the header, in which nothing matters to us
		if err := z.skip(2); err != nil {
			return err
		}
	}
	z.members++
	z.sum, z.size = 0, 0
	z.last = false
	// A match must not reach into the member before.
	z.d.outPos, z.given, z.added = 0, 0, 0
	z.next = z.block
	return nil
}

func (z *Reader) skip(n int) error {
	for n > 0 {
		if err := z.need(1); err != nil {
			return err
		}
		m := min(n, len(z.d.in)-z.d.inPos)
		if m == 0 {
			return ErrTruncated
		}
		z.d.inPos += m
		n -= m
	}
	return nil
}

func (z *Reader) skipText() error {
	for {
		if err := z.need(1); err != nil {
			return err
		}
		if z.d.inPos == len(z.d.in) {
			return ErrTruncated
		}
		z.d.inPos++
		if z.d.in[z.d.inPos-1] == 0 {
			return nil
		}
	}
}

// block reads a block's header.
func (z *Reader) block() error {
	if z.last {
		z.d.align()
		z.next = z.trailer
		return nil
	}
	if err := z.need(maxBlockHeader); err != nil {
		return err
	}
	d := &z.d
	d.refill()
	if d.nbits < 3 {
		return ErrTruncated
	}
	z.last = d.take(1) == 1
	switch d.take(2) {
	case 0:
		return z.storedHeader()
	case 1:
		d.fixedTables()
	case 2:
		if err := d.dynamicTables(); err != nil {
			return err
		}
	default:
		return ErrCorrupt
	}
	z.next = z.compressed
	return nil
}

func (z *Reader) storedHeader() error {
	z.d.align()
	h := z.d.in[z.d.inPos:]
	if len(h) < 4 {
		return ErrTruncated
	}
	size := binary.LittleEndian.Uint16(h)
	if size != ^binary.LittleEndian.Uint16(h[2:]) {
		return ErrCorrupt
	}
	z.d.inPos += 4
	z.stored = int(size)
	z.next = z.copyStored
	return nil
}

func (z *Reader) copyStored() error {
	if z.stored == 0 {
		z.next = z.block
		return nil
	}
	if err := z.need(1); err != nil {
		return err
	}
	d := &z.d
	in := d.in[d.inPos:]
	if len(in) == 0 {
		return ErrTruncated
	}
	n := copy(d.out[d.outPos:], in[:min(len(in), z.stored)])
	d.inPos += n
	d.outPos += n
	z.stored -= n
	return nil
}

// compressed decodes a part of a compressed block.
func (z *Reader) compressed() error {
	for {
		done, err := z.d.fast()
		if err == nil && !done && z.d.outPos <= len(z.d.out)-outSlack {
			// Too little input to go fast: the end of what there is.
			if !z.ended {
				if err := z.need(inSlack); err != nil {
					return err
				}
				continue
			}
			done, err = z.d.careful()
		}
		if done {
			z.next = z.block
		}
		if done || err != nil || z.d.outPos > len(z.d.out)-outSlack {
			return err
		}
	}
}

// trailer checks a member's length and checksum.
func (z *Reader) trailer() error {
	if err := z.need(8); err != nil {
		return err
	}
	t := z.d.in[z.d.inPos:]
	if len(t) < 8 {
		return ErrTruncated
	}
	if binary.LittleEndian.Uint32(t) != z.sum || binary.LittleEndian.Uint32(t[4:]) != z.size {
		return ErrGzip
	}
	z.d.inPos += 8
	z.next = z.header
	return nil
}
