package inflate

import (
	"encoding/binary"
	"errors"
	"sync"
)

var (
	// ErrCorrupt tells that the input is not a zlib stream, or that its checksum is wrong.
	ErrCorrupt = errors.New("corrupt zlib stream")
	// ErrTruncated tells that the input ends within the stream.
	ErrTruncated = errors.New("truncated zlib stream")
	// ErrTooLong tells that the result does not fit the buffer.
	ErrTooLong = errors.New("zlib stream longer than its buffer")
)

// Zlib decodes the zlib stream at the start of src into dst and returns the
// number of bytes. Bytes behind the stream are ignored. The checksum is verified.
func Zlib(dst, src []byte) (int, error) {
	if len(src) < 2 {
		return 0, ErrTruncated
	}
	// RFC 1950, section 2.2: deflate, a window of at most 32 KiB, no dictionary.
	if header := binary.BigEndian.Uint16(src); header&0x0f00 != 0x0800 || header>>12 > 7 || header%31 != 0 || header&0x20 != 0 {
		return 0, ErrCorrupt
	}
	d := decoders.Get().(*decoder)
	defer decoders.Put(d)
	d.reset(dst, src[2:])
	if err := d.stream(); err != nil {
		return 0, err
	}
	sum := d.in[d.inPos:]
	if len(sum) < 4 {
		return 0, ErrTruncated
	}
	if binary.BigEndian.Uint32(sum) != adler32(dst[:d.outPos]) {
		return 0, ErrCorrupt
	}
	n := d.outPos
	d.reset(nil, nil)
	return n, nil
}

// decoders are reused for their tables of 20 KiB.
var decoders = sync.Pool{New: func() any { return new(decoder) }}

// decoder is the state of one stream.
type decoder struct {
	in, out       []byte
	inPos, outPos int
	bits          uint64 // the next bits of the stream, lowest first
	nbits         uint   // how many of bits are valid, 0 to 63; those above are zero between steps

	lit   [litTableSize]entry
	dist  [distTableSize]entry
	fixed bool // the tables are those of the fixed code

	lengths [maxLitCodes + maxDistCodes]uint8
	sorted  [maxLitCodes + 2]uint16
}

func (d *decoder) reset(out, in []byte) {
	d.in, d.out = in, out
	d.inPos, d.outPos = 0, 0
	d.bits, d.nbits = 0, 0
}

// stream decodes blocks up to the last one, and leaves inPos behind it.
func (d *decoder) stream() error {
	for {
		d.refill()
		if d.nbits < 3 {
			return ErrTruncated
		}
		last, kind := d.take(1) == 1, d.take(2)
		var err error
		switch kind {
		case 0:
			err = d.stored()
		case 1:
			d.fixedTables()
			err = d.block()
		case 2:
			if err = d.dynamicTables(); err == nil {
				err = d.block()
			}
		default:
			err = ErrCorrupt
		}
		if err != nil {
			return err
		}
		if last {
			d.align()
			return nil
		}
	}
}

// refill tops the bit buffer up to at least 56 bits, or to all that is left.
func (d *decoder) refill() {
	for d.nbits < 56 && d.inPos < len(d.in) {
		d.bits |= uint64(d.in[d.inPos]) << d.nbits
		d.inPos++
		d.nbits += 8
	}
}

// take removes n bits, which must be there, from the bit buffer.
func (d *decoder) take(n uint) uint {
	v := uint(d.bits & (1<<n - 1))
	d.bits >>= n
	d.nbits -= n
	return v
}

// align drops the rest of the present byte and gives whole bytes back.
func (d *decoder) align() {
	d.inPos -= int(d.nbits / 8)
	d.bits, d.nbits = 0, 0
}

// stored copies a block that is not compressed.
func (d *decoder) stored() error {
	d.align()
	in := d.in[d.inPos:]
	if len(in) < 4 {
		return ErrTruncated
	}
	size, check := binary.LittleEndian.Uint16(in), binary.LittleEndian.Uint16(in[2:])
	if size != ^check {
		return ErrCorrupt
	}
	in = in[4:]
	if len(in) < int(size) {
		return ErrTruncated
	}
	if len(d.out)-d.outPos < int(size) {
		return ErrTooLong
	}
	d.outPos += copy(d.out[d.outPos:], in[:size])
	d.inPos += 4 + int(size)
	return nil
}

// block decodes a compressed block: most of it fast, the ends of the buffers
// with care.
func (d *decoder) block() error {
	done, err := d.fast()
	for !done && err == nil {
		done, err = d.careful()
	}
	return err
}

// careful decodes one literal or match, or the end of the block.
func (d *decoder) careful() (done bool, err error) {
	d.refill()
	e := d.lit[d.bits&(1<<litTableBits-1)]
	if e&entrySub != 0 {
		e = d.lit[e.sub(d.bits>>litTableBits)]
	}
	switch {
	case uint(e&63) > d.nbits:
		return false, ErrTruncated
	case e&entryBad != 0:
		return false, ErrCorrupt
	case e&entryLit == 0 && e&entryEnd == 0:
		return false, d.match(e)
	}
	d.take(uint(e & 63))
	if e&entryEnd != 0 {
		return true, nil
	}
	if d.outPos == len(d.out) {
		return false, ErrTooLong
	}
	d.out[d.outPos] = byte(e >> 16)
	d.outPos++
	return false, nil
}

// match copies what a length entry and the distance behind it tell.
func (d *decoder) match(e entry) error {
	length := e.value(d.bits)
	d.take(uint(e & 63))
	d.refill()
	e = d.dist[d.bits&(1<<distTableBits-1)]
	if e&entrySub != 0 {
		e = d.dist[e.sub(d.bits>>distTableBits)]
	}
	if uint(e&63) > d.nbits {
		return ErrTruncated
	}
	if e&entryBad != 0 {
		return ErrCorrupt
	}
	distance := e.value(d.bits)
	d.take(uint(e & 63))
	if distance > d.outPos {
		return ErrCorrupt
	}
	if length > len(d.out)-d.outPos {
		return ErrTooLong
	}
	from := d.outPos - distance
	for range length {
		d.out[d.outPos] = d.out[from]
		d.outPos++
		from++
	}
	return nil
}
