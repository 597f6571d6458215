package zstdblock

import (
	"encoding/binary"
	"slices"
)

// sequenceCoder encodes the sequences section of a block, RFC 8878 section
// 3.1.1.3.2: each of a sequence's three numbers as a code, by finite state
// entropy, and further bits.
type sequenceCoder struct {
	codes                      []codes
	literals, offsets, matches field
}

// codes are those of one sequence.
type codes struct{ literals, offset, match uint8 }

// field is one of the three numbers.
type field struct {
	counts [maxSymbols]uint32
	norm   [maxSymbols]int16
	table  fseTable
}

// How the decoder gets a field's table.
const (
	tablePredefined = 0
	tableOne        = 1 // of a single code
	tableNew        = 2
)

// Largest tables.
const (
	literalsLog = 9
	offsetsLog  = 8
	matchesLog  = 9
)

// fewSequences is how many are not worth tables of their own.
const fewSequences = 64

// append encodes seqs, whose lengths and distances are those of a block.
func (c *sequenceCoder) append(dst []byte, seqs []sequence) []byte {
	switch n := len(seqs); {
	case n == 0:
		return append(dst, 0)
	case n < 128:
		dst = append(dst, byte(n))
	case n < 0x7F00:
		dst = append(dst, byte(n>>8)+128, byte(n))
	default:
		dst = append(dst, 255, byte(n-0x7F00), byte((n-0x7F00)>>8))
	}
	c.assign(seqs)
	at := len(dst)
	dst = append(dst, 0)
	var modes [3]byte
	dst, modes[0] = c.literals.appendTable(dst, len(seqs), literalsLog, defaultLiterals[:], 6)
	dst, modes[1] = c.offsets.appendTable(dst, len(seqs), offsetsLog, defaultOffsets[:], 5)
	dst, modes[2] = c.matches.appendTable(dst, len(seqs), matchesLog, defaultMatches[:], 6)
	dst[at] = modes[0]<<6 | modes[1]<<4 | modes[2]<<2
	return c.appendBits(dst, seqs)
}

// assign finds and counts the codes.
func (c *sequenceCoder) assign(seqs []sequence) {
	c.literals.counts = [maxSymbols]uint32{}
	c.offsets.counts = [maxSymbols]uint32{}
	c.matches.counts = [maxSymbols]uint32{}
	c.codes = c.codes[:0]
	for _, s := range seqs {
		k := codes{literalsCode(s.literals), highBit(s.offset), matchCode(s.match - minMatch)}
		c.literals.counts[k.literals]++
		c.offsets.counts[k.offset]++
		c.matches.counts[k.match]++
		c.codes = append(c.codes, k)
	}
}

// appendTable chooses and describes the table for n codes that were counted.
func (f *field) appendTable(dst []byte, n int, most uint8, predefined []int16, predefinedLog uint8) ([]byte, byte) {
	last := maxSymbols - 1
	for f.counts[last] == 0 {
		last--
	}
	switch {
	case f.counts[last] == uint32(n) && n > 2:
		f.table.buildOne(uint8(last))
		return append(dst, byte(last)), tableOne
	case n < fewSequences && last < len(predefined):
		f.table.build(predefined, predefinedLog)
		return dst, tablePredefined
	}
	log := optimalLog(n, uint8(last), most)
	norm := f.norm[:last+1]
	normalize(norm, f.counts[:last+1], n, log)
	f.table.build(norm, log)
	return appendNorm(dst, norm, log), tableNew
}

// appendBits encodes the sequences, the last first: the decoder reads from the
// end.
func (c *sequenceCoder) appendBits(dst []byte, seqs []sequence) []byte {
	lit, off, mat := &c.literals.table, &c.offsets.table, &c.matches.table
	last := len(seqs) - 1
	k := c.codes[last]
	sLit, sOff, sMat := lit.begin(k.literals), off.begin(k.offset), mat.begin(k.match)
	// A sequence takes at most 26 bits of states and 52 others.
	w := newBitWriter(dst, len(seqs)*10)
	for i := last; i >= 0; i-- {
		s, k := &seqs[i], c.codes[i]
		if i < last {
			sOff = off.encode(&w, sOff, k.offset)
			sMat = mat.encode(&w, sMat, k.match)
			sLit = lit.encode(&w, sLit, k.literals)
			w.flush()
		}
		w.put(s.literals, literalsExtra[k.literals&63])
		w.put(s.match-minMatch, matchesExtra[k.match&63])
		w.put(s.offset, k.offset)
		w.flush()
	}
	w.put(sMat, mat.log)
	w.put(sOff, off.log)
	w.put(sLit, lit.log)
	w.put(1, 1) // marks the end
	w.flush()
	return w.end()
}

// bitWriter appends numbers of some bits, lowest first. Between flushes there
// is room for 56 bits.
type bitWriter struct {
	out  []byte
	pos  int
	acc  uint64
	have uint8 // bits in acc
}

// newBitWriter appends up to size bytes to dst.
func newBitWriter(dst []byte, size int) bitWriter {
	pos := len(dst)
	dst = slices.Grow(dst, size+32)
	return bitWriter{out: dst[:cap(dst)], pos: pos}
}

// put adds the low n bits of v.
func (w *bitWriter) put(v uint32, n uint8) {
	w.acc |= uint64(v&(1<<(n&31)-1)) << (w.have & 63)
	w.have += n
}

func (w *bitWriter) flush() {
	binary.LittleEndian.PutUint64(w.out[w.pos:], w.acc)
	w.pos += int(w.have >> 3)
	w.acc >>= w.have &^ 7 & 63
	w.have &= 7
}

func (w *bitWriter) end() []byte {
	if w.have > 0 {
		w.pos++
	}
	return w.out[:w.pos]
}

// encode goes to the state from which the decoder gets symbol next, and writes
// the bits by which it finds the present one.
func (t *fseTable) encode(w *bitWriter, state uint32, symbol uint8) uint32 {
	m := &t.moves[symbol]
	width := (state + m.bits) >> 16
	w.put(state, uint8(width))
	return uint32(t.states[int32(state>>(width&31))+m.find])
}
