package zstdblock

// fseTable is an encoding table of a finite state entropy coder, RFC 8878
// section 4.1.
type fseTable struct {
	log    uint8 // of the number of states
	states [1 << maxFSELog]uint16
	moves  [maxSymbols]fseMove
}

const (
	maxFSELog  = 9
	maxSymbols = 53
)

// fseMove says what encoding a symbol does to the state: how many of its low
// bits are written (the high half of bits, after adding the state), and where
// the next state lies.
type fseMove struct {
	bits uint32
	find int32
}

// build makes the table for the probabilities in norm, in units of
// 1/(1<<log); -1 is less than one unit.
func (t *fseTable) build(norm []int16, log uint8) {
	t.log = log
	size := 1 << log
	var symbols [1 << maxFSELog]uint8
	var next [maxSymbols + 1]int // where a symbol's states begin
	high := size - 1
	for s, n := range norm {
		next[s+1] = next[s] + int(max(n, -n))
		if n == -1 {
			symbols[high] = uint8(s)
			high--
		}
	}
	// Spread the others over the table, as the decoder does.
	step, pos := size>>1+size>>3+3, 0
	for s, n := range norm {
		for range n {
			symbols[pos] = uint8(s)
			for pos = (pos + step) & (size - 1); pos > high; {
				pos = (pos + step) & (size - 1)
			}
		}
	}
	starts := next
	for i, s := range symbols[:size] {
		t.states[next[s]] = uint16(size + i)
		next[s]++
	}
	for s, n := range norm {
		switch {
		case n == 0:
			t.moves[s] = fseMove{}
		case n == 1 || n == -1:
			t.moves[s] = fseMove{uint32(log)<<16 - uint32(size), int32(starts[s] - 1)}
		default:
			width := uint32(log - highBit(uint32(n-1)))
			t.moves[s] = fseMove{width<<16 - uint32(n)<<width, int32(starts[s]) - int32(n)}
		}
	}
}

// buildOne makes the table that codes one symbol in no bits at all.
func (t *fseTable) buildOne(symbol uint8) {
	t.log = 0
	t.states[0] = 0
	t.moves[symbol] = fseMove{}
}

// begin is a state from which the decoder gets symbol first.
func (t *fseTable) begin(symbol uint8) uint32 {
	m := &t.moves[symbol]
	width := (m.bits + 1<<15) >> 16
	return uint32(t.states[int32((width<<16-m.bits)>>width)+m.find])
}

// normalize scales counts, of total, to probabilities of a table of 1<<log.
// At least two counts are not zero.
func normalize(norm []int16, counts []uint32, total int, log uint8) {
	left, largest := 1<<log, 0
	for s, n := range counts {
		switch {
		case n == 0:
			norm[s] = 0
			continue
		case int(n)<<log <= total:
			norm[s] = -1
			left--
			continue
		}
		// Round to the nearest, small ones up earlier: they lose most by
		// being too small.
		scaled := int(n) << log
		p := scaled / total
		if rest := scaled - p*total; rest*2 > total || p < 3 && rest*3 > total {
			p++
		}
		norm[s] = int16(p)
		left -= p
		if norm[s] > norm[largest] || norm[largest] < 1 {
			largest = s
		}
	}
	for left != 0 { // rarely more than once
		if give := int16(left); norm[largest]+give > norm[largest]/2 && norm[largest]+give >= 1 {
			norm[largest] += give
			return
		}
		norm[largest]--
		left++
		for s, p := range norm[:len(counts)] {
			if p > norm[largest] {
				largest = s
			}
		}
	}
}

// optimalLog is the size of table that suits total symbols, of which there are
// up to last kinds.
func optimalLog(total int, last uint8, most uint8) uint8 {
	log := min(most, highBit(uint32(total-1))-2)
	least := min(highBit(uint32(total))+1, highBit(uint32(last)+1)+2)
	return max(log, least, 5)
}

// appendNorm encodes probabilities, RFC 8878 section 4.1.1.
func appendNorm(dst []byte, norm []int16, log uint8) []byte {
	acc, have := uint32(log-5), uint(4)
	put := func(v uint32, n uint) {
		acc |= v << have
		for have += n; have >= 8; have -= 8 {
			dst = append(dst, byte(acc))
			acc >>= 8
		}
	}
	left := 1<<log + 1 // one more than the probability that is left
	width := uint(log) + 1
	for s := 0; s < len(norm) && left > 1; {
		// Values take width bits, but the lowest do with one less.
		p := int(norm[s])
		s++
		value := p + 1
		for left < 1<<(width-1) {
			width--
		}
		short := 1<<width - 1 - left
		left -= max(p, -p)
		switch {
		case value < short:
			put(uint32(value), width-1)
		case value < 1<<(width-1):
			put(uint32(value), width)
		default:
			put(uint32(value+short), width)
		}
		if p == 0 {
			// How many more zeros follow, in twos.
			zeros := 0
			for s < len(norm) && norm[s] == 0 {
				zeros++
				s++
			}
			for ; zeros >= 3; zeros -= 3 {
				put(3, 2)
			}
			put(uint32(zeros), 2)
		}
	}
	if have > 0 {
		dst = append(dst, byte(acc))
	}
	return dst
}
