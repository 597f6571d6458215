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
//	            of a pointer to a subtable: with how many bits to look there
//	bits 12-15  flags
//	bits 16-31  base length or distance; literal; start of the subtable
type entry uint32

const (
	entryLit = 1 << 15
	entryEnd = 1 << 14 // end of block
	entrySub = 1 << 13
	entryBad = 1 << 12 // no such code
)

// sub returns where in the table a pointer leads, given the bits behind those
// that led to it.
func (e entry) sub(bits uint64) uint64 { return uint64(e>>16) + bits&(1<<(e>>8&15)-1) }

// value returns the length or distance, given the stream's bits from the code on.
func (e entry) value(bits uint64) int { return int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15)) }

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
func litEntry(symbol int) entry {
	switch {
	case symbol < 256:
		return entryLit | entry(symbol)<<16
	case symbol == 256:
		return entryEnd
	case symbol < 257+len(lengthBase):
		return entry(lengthBase[symbol-257])<<16 | entry(lengthExtra[symbol-257])
	}
	return entryBad
}

func distEntry(symbol int) entry {
	if symbol < len(distBase) {
		return entry(distBase[symbol])<<16 | entry(distExtra[symbol])
	}
	return entryBad
}

func lenEntry(symbol int) entry { return entry(symbol) << 16 }

// withCode adds a code's length to an entry.
func (e entry) withCode(length uint) entry { return (e + entry(length)) | entry(length)<<8 }

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
func (d *decoder) build(table []entry, lengths []uint8, tableBits uint, symbolEntry func(int) entry) bool {
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
		return d.buildIncomplete(table[:1<<tableBits], used, symbolEntry)
	}
	d.fill(table, &count, longest, tableBits, symbolEntry)
	return true
}

// buildIncomplete makes the table of a code with one symbol or none.
func (d *decoder) buildIncomplete(table []entry, used int, symbolEntry func(int) entry) bool {
	for i := range table {
		table[i] = entryBad | 1
		if used == 1 && i&1 == 0 {
			table[i] = symbolEntry(int(d.sorted[0])).withCode(1)
		}
	}
	return true
}

// fill enters the codes of a complete code, shortest first. Deflate sends codes
// with their first bit lowest, so they are counted up in reverse. The table
// starts small and is doubled whenever codes get longer.
func (d *decoder) fill(table []entry, count *[maxCodeLen + 2]uint16, longest, tableBits uint, symbolEntry func(int) entry) {
	code, length, i := uint(0), uint(1), 0
	for count[length] == 0 {
		length++
	}
	filled := uint(1) << min(length, tableBits)
	sub, subStart, subBits := uint(1<<tableBits), uint(0), uint(0)
	prefix := ^uint(0) // of the present subtable
	for {
		for left := int(count[length]); left > 0; left-- {
			e := symbolEntry(int(d.sorted[i])).withCode(length)
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
					table[prefix] = entrySub | entry(subStart)<<16 | entry(subBits)<<8
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
func (d *decoder) double(table []entry, filled, tableBits uint) {
	for ; filled < 1<<tableBits; filled <<= 1 {
		copy(table[filled:2*filled], table[:filled])
	}
}

// increment adds one to a code whose first bit is its lowest.
func increment(code, length uint) uint {
	top := uint(1) << (bits.Len(code^(1<<length-1)) - 1)
	return code&(top-1) | top
}
