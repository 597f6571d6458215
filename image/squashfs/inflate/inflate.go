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

	lit   [litTableSize]uint32
	dist  [distTableSize]uint32
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

// block decodes a compressed block: most of it fast, its end with care.
func (d *decoder) block() error {
	for {
		done, err := d.fast()
		if done || err != nil {
			return err
		}
		// Near an end of a buffer. One step at a time, since the fast loop
		// may run again only if this was a long symbol's fault.
		if done, err := d.careful(); done || err != nil {
			return err
		}
	}
}

// careful decodes to the end of the block, checking each step.
func (d *decoder) careful() (done bool, err error) {
	for {
		d.refill()
		e := d.lit[d.bits&(1<<litTableBits-1)]
		if e&entrySub != 0 {
			e = d.lit[uint64(e>>16)+d.bits>>litTableBits&(1<<(e>>8&15)-1)]
		}
		switch {
		case uint(e&0x3f) > d.nbits:
			return false, ErrTruncated
		case e&entryLit != 0:
			err = d.literals(e)
		case e&entryEnd != 0:
			d.take(uint(e & 0x3f))
			return true, nil
		case e&entryBad != 0:
			return false, ErrCorrupt
		default:
			err = d.match(e)
		}
		if err != nil {
			return false, err
		}
	}
}

// literals writes the literals of an entry.
func (d *decoder) literals(e uint32) error {
	n := int(e >> 8 & 3)
	if len(d.out)-d.outPos < n {
		return ErrTooLong
	}
	d.out[d.outPos] = byte(e >> 16)
	if n == 2 {
		d.out[d.outPos+1] = byte(e >> 24)
	}
	d.outPos += n
	d.take(uint(e & 0x3f))
	return nil
}

// match copies what a length entry and the distance behind it tell.
func (d *decoder) match(e uint32) error {
	length := int(e>>16) + int(d.bits&(1<<(e&0x3f)-1)>>(e>>8&15))
	d.take(uint(e & 0x3f))
	d.refill()
	e = d.dist[d.bits&(1<<distTableBits-1)]
	if e&entrySub != 0 {
		e = d.dist[uint64(e>>16)+d.bits>>distTableBits&(1<<(e>>8&15)-1)]
	}
	if e&entryBad != 0 {
		if uint(e&0x3f) > d.nbits {
			return ErrTruncated
		}
		return ErrCorrupt
	}
	if uint(e&0x3f) > d.nbits {
		return ErrTruncated
	}
	distance := int(e>>16) + int(d.bits&(1<<(e&0x3f)-1)>>(e>>8&15))
	d.take(uint(e & 0x3f))
	if distance > d.outPos {
		return ErrCorrupt
	}
	if len(d.out)-d.outPos < length {
		return ErrTooLong
	}
	for range length {
		d.out[d.outPos] = d.out[d.outPos-distance]
		d.outPos++
	}
	return nil
}
