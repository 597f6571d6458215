package inflate

import "math/bits"

// Sizes of RFC 1951, section 3.2.
const (
	maxLitCodes  = 288 // 286 and 287 stand in the fixed code but never in a stream
	maxDistCodes = 32  // so do 30 and 31
	maxCodeLen   = 15
	maxDistBits  = 28 // a code of 15 bits and 13 more
)

// A table is looked up with that many bits of the stream. Longer codes lead to
// a subtable behind it. The sizes are powers of two above what zlib's "enough"
// finds: 2342 and 402 entries.
const (
	litTableBits  = 11
	litTableSize  = 4096
	distTableBits = 8
	distTableSize = 512
	lenTableBits  = 7
)

// An entry of a table:
//
//	bits 0-5    how many bits of the stream it takes, extra ones included
//	bits 8-11   of a length or distance: how many of these are the code;
//	            of literals: how many there are, 1 or 2;
//	            of a pointer to a subtable: with how many bits to look there
//	bits 12-15  flags
//	bits 16-31  base length or distance; literals; start of the subtable
const (
	entryLit = 1 << 15
	entryEnd = 1 << 14 // end of block
	entrySub = 1 << 13
	entryBad = 1 << 12 // no such code
)

// codeLengthOrder is the order in which the lengths of the code for code
// lengths come.
var codeLengthOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// Bases and extra bits of the length codes from 257 on, and of the distance codes.
var (
	lengthBase = [29]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59,
		67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase    = [30]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769,
		1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	distExtra = [30]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
)

// litEntry returns a symbol's entry without the lengths of its code.
func litEntry(symbol int) uint32 {
	switch {
	case symbol < 256:
		return entryLit | 1<<8 | uint32(symbol)<<16
	case symbol == 256:
		return entryEnd
	case symbol < 257+len(lengthBase):
		return uint32(lengthBase[symbol-257])<<16 | uint32(lengthExtra[symbol-257])
	}
	return entryBad
}

func distEntry(symbol int) uint32 {
	if symbol < len(distBase) {
		return uint32(distBase[symbol])<<16 | uint32(distExtra[symbol])
	}
	return entryBad
}

func lenEntry(symbol int) uint32 { return uint32(symbol) << 16 }

// withCode adds a code's length to an entry.
func withCode(e uint32, length uint) uint32 {
	e += uint32(length) // on top of the extra bits
	if e&entryLit == 0 {
		e |= uint32(length) << 8
	}
	return e
}

// fixedTables builds the tables of the fixed code (section 3.2.6).
func (d *decoder) fixedTables() {
	if d.fixed {
		return
	}
	for i := range d.lengths {
		switch {
		case i < 144:
			d.lengths[i] = 8
		case i < 256:
			d.lengths[i] = 9
		case i < 280:
			d.lengths[i] = 7
		case i < maxLitCodes:
			d.lengths[i] = 8
		default:
			d.lengths[i] = 5
		}
	}
	d.build(d.lit[:], d.lengths[:maxLitCodes], litTableBits, litEntry)
	d.pairLiterals()
	d.build(d.dist[:], d.lengths[maxLitCodes:], distTableBits, distEntry)
	d.fixed = true
}

// dynamicTables reads the codes of a block and builds their tables (section 3.2.7).
func (d *decoder) dynamicTables() error {
	d.fixed = false
	d.refill()
	if d.nbits < 14 {
		return ErrTruncated
	}
	lits, dists, lens := int(d.take(5))+257, int(d.take(5))+1, int(d.take(4))+4
	if lits > 286 || dists > 30 {
		return ErrCorrupt
	}
	clear(d.lengths[:len(codeLengthOrder)])
	for _, symbol := range codeLengthOrder[:lens] {
		d.refill()
		if d.nbits < 3 {
			return ErrTruncated
		}
		d.lengths[symbol] = uint8(d.take(3))
	}
	// The table of the literals serves for the code lengths before it is made.
	if !d.build(d.lit[:], d.lengths[:len(codeLengthOrder)], lenTableBits, lenEntry) {
		return ErrCorrupt
	}
	if err := d.codeLengths(lits + dists); err != nil {
		return err
	}
	if d.lengths[256] == 0 {
		return ErrCorrupt // the block would have no end
	}
	if !d.build(d.dist[:], d.lengths[lits:lits+dists], distTableBits, distEntry) ||
		!d.build(d.lit[:], d.lengths[:lits], litTableBits, litEntry) {
		return ErrCorrupt
	}
	d.pairLiterals()
	return nil
}

// codeLengths reads the lengths of n codes.
func (d *decoder) codeLengths(n int) error {
	for i := 0; i < n; {
		d.refill()
		e := d.lit[d.bits&(1<<lenTableBits-1)]
		if uint(e&0x3f) > d.nbits {
			return ErrTruncated
		}
		if e&entryBad != 0 {
			return ErrCorrupt
		}
		d.take(uint(e & 0x3f))
		symbol := e >> 16
		if symbol < 16 {
			d.lengths[i] = uint8(symbol)
			i++
			continue
		}
		var value uint8
		var times, extra uint
		switch symbol {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			value, times, extra = d.lengths[i-1], 3, 2
		case 17:
			times, extra = 3, 3
		default:
			times, extra = 11, 7
		}
		if d.nbits < extra {
			return ErrTruncated
		}
		times += d.take(extra)
		if i+int(times) > n {
			return ErrCorrupt
		}
		for range times {
			d.lengths[i] = value
			i++
		}
	}
	return nil
}

// build makes the table of a canonical code. It reports whether the lengths
// make one: too many codes are an error; too few also, save for a single code
// of one bit or none at all, which zlib accepts too.
func (d *decoder) build(table []uint32, lengths []uint8, tableBits uint, entry func(int) uint32) bool {
	var count, next [maxCodeLen + 2]uint16
	for _, n := range lengths {
		count[n]++
	}
	used := len(lengths) - int(count[0])
	count[0] = 0
	left, longest := 1, uint(0)
	for n := 1; n <= maxCodeLen; n++ {
		left = left<<1 - int(count[n])
		if left < 0 {
			return false
		}
		if count[n] > 0 {
			longest = uint(n)
		}
		next[n+1] = next[n] + count[n]
	}
	if left > 0 && (used > 1 || longest > 1) {
		return false
	}
	for symbol, n := range lengths { // sort by length, then symbol
		if n > 0 {
			d.sorted[next[n]] = uint16(symbol)
			next[n]++
		}
	}
	if left > 0 {
		return d.buildIncomplete(table[:1<<tableBits], used, entry)
	}
	d.fill(table, &count, longest, tableBits, entry)
	return true
}

// buildIncomplete makes the table of a code with one symbol or none.
func (d *decoder) buildIncomplete(table []uint32, used int, entry func(int) uint32) bool {
	for i := range table {
		table[i] = entryBad | 1
		if used == 1 && i&1 == 0 {
			table[i] = withCode(entry(int(d.sorted[0])), 1)
		}
	}
	return true
}

// fill enters the codes of a complete code, shortest first. Deflate sends codes
// with their first bit lowest, so they are counted up in reverse. The table
// starts small and is doubled whenever codes get longer.
func (d *decoder) fill(table []uint32, count *[maxCodeLen + 2]uint16, longest, tableBits uint, entry func(int) uint32) {
	code, length, i := uint(0), uint(1), 0
	for count[length] == 0 {
		length++
	}
	filled := uint(1) << min(length, tableBits)
	sub, subStart, subBits := uint(1<<tableBits), uint(0), uint(0)
	prefix := ^uint(0) // of the present subtable
	for {
		for left := int(count[length]); left > 0; left-- {
			e := withCode(entry(int(d.sorted[i])), length)
			i++
			if length <= tableBits {
				table[code] = e
			} else {
				if code&(1<<tableBits-1) != prefix {
					prefix = code & (1<<tableBits - 1)
					subStart, subBits = sub, length-tableBits
					for room := left; 1<<subBits > room && subBits+tableBits < longest; {
						subBits++
						room = room<<1 + int(count[tableBits+subBits])
					}
					sub += 1 << subBits
					table[prefix] = entrySub | uint32(subStart)<<16 | uint32(subBits)<<8
				}
				for j := code >> tableBits; j < 1<<subBits; j += 1 << (length - tableBits) {
					table[subStart+j] = e
				}
			}
			if code == 1<<length-1 {
				d.double(table, filled, tableBits)
				return
			}
			code = increment(code, length)
		}
		length++
		if length <= tableBits && filled < 1<<length {
			copy(table[filled:], table[:filled])
			filled <<= 1
		}
	}
}

// double repeats what is filled until the whole table is.
func (d *decoder) double(table []uint32, filled, tableBits uint) {
	for ; filled < 1<<tableBits; filled <<= 1 {
		copy(table[filled:2*filled], table[:filled])
	}
}

// increment adds one to a code whose first bit is its lowest.
func increment(code, length uint) uint {
	top := uint(1) << (bits.Len(code^(1<<length-1)) - 1)
	return code&(top-1) | top
}

// pairLiterals puts two literals into each entry that has bits left over for
// a second one.
func (d *decoder) pairLiterals() {
	// From the top down, so that entries looked up are still single: what is
	// left of an index after some bits is smaller than the index, or zero.
	for i := 1<<litTableBits - 1; i >= 0; i-- {
		e := d.lit[i]
		if e&entryLit == 0 {
			continue
		}
		n := e & 0x3f
		second := d.lit[i>>n]
		if second&entryLit == 0 || second>>8&3 != 1 || n+second&0x3f > litTableBits {
			continue
		}
		d.lit[i] = entryLit | 2<<8 | (n + second&0x3f) | e&0xff0000 | second>>16<<24
	}
}
