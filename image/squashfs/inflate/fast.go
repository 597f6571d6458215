package inflate

import "encoding/binary"

// What one turn of the fast loop may touch beyond the positions it starts at:
// two refills of the bit buffer read 7 bytes on and 8 ahead; four pairs of
// literals and one match of 258 bytes, copied 16 and 8 at a time.
const (
	inSlack  = 16
	outSlack = 8 + 258 + 16
)

// fast decodes while both buffers have room to spare. done tells that it met
// the block's end.
func (d *decoder) fast() (done bool, err error) {
	in, out := d.in, d.out
	inPos, outPos := d.inPos, d.outPos
	bits, nbits := d.bits, d.nbits
	lit, dist := &d.lit, &d.dist

	// Bits above nbits are copies of bytes from inPos on; reading these again
	// changes nothing, which saves counting.
	for inPos <= len(in)-inSlack && outPos <= len(out)-outSlack {
		bits |= binary.LittleEndian.Uint64(in[inPos:]) << (nbits & 63)
		inPos += int((63 - nbits) >> 3)
		nbits |= 56

		e := lit[bits&(1<<litTableBits-1)]
		if e&entryLit != 0 {
			binary.LittleEndian.PutUint16(out[outPos:], uint16(e>>16))
			outPos += int(e >> 8 & 3)
			bits >>= e & 63
			nbits -= uint(e & 63)
			e = lit[bits&(1<<litTableBits-1)]
			if e&entryLit != 0 {
				binary.LittleEndian.PutUint16(out[outPos:], uint16(e>>16))
				outPos += int(e >> 8 & 3)
				bits >>= e & 63
				nbits -= uint(e & 63)
				e = lit[bits&(1<<litTableBits-1)]
				if e&entryLit != 0 {
					binary.LittleEndian.PutUint16(out[outPos:], uint16(e>>16))
					outPos += int(e >> 8 & 3)
					bits >>= e & 63
					nbits -= uint(e & 63)
					e = lit[bits&(1<<litTableBits-1)]
				}
			}
		}
		if e&(entryLit|entrySub|entryEnd|entryBad) != 0 {
			if e&entrySub != 0 {
				e = lit[(uint64(e>>16)+bits>>litTableBits&(1<<(e>>8&15)-1))&(litTableSize-1)]
			}
			if e&entryLit != 0 {
				binary.LittleEndian.PutUint16(out[outPos:], uint16(e>>16))
				outPos += int(e >> 8 & 3)
				bits >>= e & 63
				nbits -= uint(e & 63)
				continue
			}
			if e&entryEnd != 0 {
				bits >>= e & 63
				nbits -= uint(e & 63)
				done = true
				break
			}
			if e&entryBad != 0 {
				return false, ErrCorrupt
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		nbits -= uint(e & 63)

		if nbits < maxDistBits {
			bits |= binary.LittleEndian.Uint64(in[inPos:]) << (nbits & 63)
			inPos += int((63 - nbits) >> 3)
			nbits |= 56
		}
		e = dist[bits&(1<<distTableBits-1)]
		if e&(entrySub|entryBad) != 0 {
			if e&entrySub != 0 {
				e = dist[(uint64(e>>16)+bits>>distTableBits&(1<<(e>>8&15)-1))&(distTableSize-1)]
			}
			if e&entryBad != 0 {
				return false, ErrCorrupt
			}
		}
		distance := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		nbits -= uint(e & 63)

		from, to := outPos-distance, outPos
		if from < 0 {
			return false, ErrCorrupt
		}
		outPos += length
		if distance >= 8 {
			binary.LittleEndian.PutUint64(out[to:], binary.LittleEndian.Uint64(out[from:]))
			binary.LittleEndian.PutUint64(out[to+8:], binary.LittleEndian.Uint64(out[from+8:]))
			for length > 16 {
				from += 16
				to += 16
				length -= 16
				binary.LittleEndian.PutUint64(out[to:], binary.LittleEndian.Uint64(out[from:]))
				binary.LittleEndian.PutUint64(out[to+8:], binary.LittleEndian.Uint64(out[from+8:]))
			}
			continue
		}
		if distance == 1 {
			v := uint64(out[from]) * 0x0101010101010101
			for to < outPos {
				binary.LittleEndian.PutUint64(out[to:], v)
				to += 8
			}
			continue
		}
		// Each copy of 8 bytes gets the first distance of them right.
		for to < outPos {
			binary.LittleEndian.PutUint64(out[to:], binary.LittleEndian.Uint64(out[from:]))
			from += distance
			to += distance
		}
	}
	d.inPos, d.outPos = inPos, outPos
	d.bits, d.nbits = bits&(1<<(nbits&63)-1), nbits
	return done, nil
}
