package inflate

import "encoding/binary"

// What one turn of the fast loop may touch beyond the positions it starts at:
// two refills of the bit buffer move 7 bytes on and read 8; then four literals
// and a match of 258 bytes, which is copied 16 bytes at a time.
const (
	inSlack  = 7 + 8
	outSlack = 4 + 258 + 16
)

// fast decodes while both buffers have room to spare. done tells that it met
// the block's end.
//
// It is one long function because its variables have to stay in registers.
// Reading through unsafe pointers would make it another tenth faster, and its
// bounds the only guard against a hostile image: not worth it.
func (d *decoder) fast() (done bool, err error) {
	in, out := d.in, d.out
	inPos, outPos := d.inPos, d.outPos
	lit, dist := &d.lit, &d.dist

	// The low six bits of nbits count; entries are subtracted as they are,
	// which fills its upper bits with rubbish. Bits above nbits are copies of
	// bytes from inPos on; reading these again changes nothing.
	bits, nbits := d.bits, d.nbits
	for inPos <= len(in)-inSlack && outPos <= len(out)-outSlack {
		bits |= binary.LittleEndian.Uint64(in[inPos:]) << (nbits & 63)
		inPos += 7 - int(nbits>>3&7)
		nbits |= 56

		// Up to three literals and a length fit the 56 bits there are.
		e := lit[bits&(1<<litTableBits-1)]
		if e&entryLit != 0 {
			out[outPos] = byte(e >> 16)
			outPos++
			bits >>= e & 63
			nbits -= uint(e)
			e = lit[bits&(1<<litTableBits-1)]
			if e&entryLit != 0 {
				out[outPos] = byte(e >> 16)
				outPos++
				bits >>= e & 63
				nbits -= uint(e)
				e = lit[bits&(1<<litTableBits-1)]
				if e&entryLit != 0 {
					out[outPos] = byte(e >> 16)
					outPos++
					bits >>= e & 63
					nbits -= uint(e)
					e = lit[bits&(1<<litTableBits-1)]
				}
			}
		}
		if e&(entryLit|entrySub|entryEnd|entryBad) != 0 {
			if e&entrySub != 0 {
				e = lit[e.sub(bits>>litTableBits)&(litTableSize-1)]
			}
			if e&entryLit != 0 {
				out[outPos] = byte(e >> 16)
				outPos++
				bits >>= e & 63
				nbits -= uint(e)
				continue
			}
			if e&entryBad != 0 {
				return false, ErrCorrupt
			}
			if e&entryEnd != 0 {
				bits >>= e & 63
				nbits -= uint(e)
				done = true
				break
			}
		}
		length := e.value(bits)
		bits >>= e & 63
		nbits -= uint(e)

		if nbits&63 < maxDistBits {
			bits |= binary.LittleEndian.Uint64(in[inPos:]) << (nbits & 63)
			inPos += 7 - int(nbits>>3&7)
			nbits |= 56
		}
		e = dist[bits&(1<<distTableBits-1)]
		if e&(entrySub|entryBad) != 0 {
			if e&entrySub != 0 {
				e = dist[e.sub(bits>>distTableBits)&(distTableSize-1)]
			}
			if e&entryBad != 0 {
				return false, ErrCorrupt
			}
		}
		distance := e.value(bits)
		bits >>= e & 63
		nbits -= uint(e)

		from, to := outPos-distance, outPos
		if from < 0 {
			return false, ErrCorrupt
		}
		outPos += length
		switch {
		case distance >= 16:
			*(*[16]byte)(out[to:]) = *(*[16]byte)(out[from:])
			for length > 16 {
				from += 16
				to += 16
				length -= 16
				*(*[16]byte)(out[to:]) = *(*[16]byte)(out[from:])
			}
		case distance >= 8:
			for to < outPos {
				*(*[8]byte)(out[to:]) = *(*[8]byte)(out[from:])
				from += 8
				to += 8
			}
		case distance == 1:
			v := uint64(out[from]) * 0x0101010101010101
			for to < outPos {
				binary.LittleEndian.PutUint64(out[to:], v)
				to += 8
			}
		default: // each copy of 8 bytes gets the first distance of them right
			for to < outPos {
				*(*[8]byte)(out[to:]) = *(*[8]byte)(out[from:])
				from += distance
				to += distance
			}
		}
	}
	d.inPos, d.outPos = inPos, outPos
	nbits &= 63
	d.bits, d.nbits = bits&(1<<nbits-1), nbits
	return done, nil
}
