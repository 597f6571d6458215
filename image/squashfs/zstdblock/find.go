package zstdblock

import (
	"encoding/binary"
	"math/bits"
)

// finder looks for matches with two hash tables, one of 8 bytes and one of 5,
// as zstd does at level 3 (its "double fast" strategy).
//
// An entry holds a position in its low bits and above them more bits of the
// hash, so that most entries that are of no use are seen to be without a look
// at the source.
type finder struct {
	src     []byte
	repeats [2]int // the last two distances

	long      [1 << longBits]uint32
	short     [1 << shortBits]uint32
	longDown  uint8 // what hashes are shifted by to get an index
	shortDown uint8
}

const (
	longBits  = 16
	shortBits = 15
	posBits   = 20
	posMask   = 1<<posBits - 1
	tagBits   = 32 - posBits

	prime5 = 889523592379
	prime8 = 0xCF1BBCDCB7A56463

	// margin is how many bytes before the end the search stops: it looks 8
	// bytes ahead of the next position.
	margin = 8 + 1
)

func (f *finder) start(src []byte) {
	f.src = src
	f.repeats = [2]int{1, 4}
	n := bits.Len(uint(len(src)))
	long, short := min(max(n, 10), longBits), min(max(n-1, 10), shortBits)
	f.longDown, f.shortDown = uint8(64-long), uint8(64-short)
	clear(f.long[:1<<long])
	clear(f.short[:1<<short])
}

func hash8(v uint64) uint64 { return v * prime8 }

func hash5(v uint64) uint64 { return (v << 24) * prime5 }

// entry is what a table holds for position pos of hash h. The tag comes from
// bits of h that are no part of the index.
func entry(h uint64, pos int) uint32 {
	return uint32(h>>16)&^posMask | uint32(pos)
}

func load64(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }

func load32(b []byte, i int) uint32 { return binary.LittleEndian.Uint32(b[i:]) }

// matchLength is how many bytes are the same at s and t, up to the end.
func matchLength(src []byte, s, t int) int {
	start := s
	for s+8 <= len(src) {
		if x := load64(src, s) ^ load64(src, t); x != 0 {
			return s + bits.TrailingZeros64(x)>>3 - start
		}
		s += 8
		t += 8
	}
	for s < len(src) && src[s] == src[t] {
		s++
		t++
	}
	return s - start
}

// find cuts bytes at to end of the source into literals and sequences, and
// appends them. What follows the last match is at the end of the literals.
func (f *finder) find(lits []byte, seqs []sequence, at, end int) ([]byte, []sequence) {
	src := f.src[:end]
	limit := end - margin
	near, far := f.repeats[0], f.repeats[1]
	anchor := at // what lies before is in the sequences
	for s := max(at, 1); s < limit; {
		m := f.next(src, s, anchor, near)
		if m.length == 0 {
			break
		}
		offset := uint32(1)
		if distance := m.s - m.t; !m.repeat {
			far, near = near, distance
			offset = uint32(distance) + 3
		}
		lits = append(lits, src[anchor:m.s]...)
		seqs = append(seqs, sequence{uint32(m.s - anchor), uint32(m.length), offset})
		s = m.s + m.length
		anchor = s
		if s >= limit {
			break
		}
		f.insertLong(src, m.seen+2)
		f.insertLong(src, s-2)
		f.insertShort(src, m.seen+2)
		f.insertShort(src, s-1)
		// Without literals between, code 1 is the last distance but one.
		for s < limit && s >= far && load32(src, s) == load32(src, s-far) {
			length := 4 + matchLength(src, s+4, s-far+4)
			near, far = far, near
			f.insertLong(src, s)
			f.insertShort(src, s)
			seqs = append(seqs, sequence{0, uint32(length), 1})
			s += length
			anchor = s
		}
	}
	f.repeats = [2]int{near, far}
	return append(lits, src[anchor:]...), seqs
}

// match says that length bytes at s are those at t.
type match struct {
	s, t, length int
	repeat       bool // at the last distance
	seen         int  // where the search was when it found this
}

// next finds the first match at s or later; its length is 0 if there is none.
func (f *finder) next(src []byte, s, anchor, near int) match {
	for ; s < len(src)-margin; s += 1 + (s-anchor)>>8 {
		v := load64(src, s)
		h8, h5 := hash8(v), hash5(v)
		pLong, pShort := f.longSlot(h8), f.shortSlot(h5)
		tagLong, tagShort := entry(h8, 0), entry(h5, 0)
		long, short := *pLong^tagLong, *pShort^tagShort // positions, if small
		*pLong, *pShort = tagLong|uint32(s), tagShort|uint32(s)

		if r := s + 1 - near; r >= 0 && load32(src, r) == uint32(v>>8) {
			return match{s + 1, r, 4 + matchLength(src, s+5, r+4), true, s}
		}
		if t := int(long); t <= posMask && load64(src, t) == v {
			return grow(match{s, t, 8 + matchLength(src, s+8, t+8), false, s}, src, anchor)
		}
		if t := int(short); t <= posMask && load32(src, t) == uint32(v) {
			// A longer one at the next byte is better.
			v = load64(src, s+1)
			h8 = hash8(v)
			pLong, tagLong = f.longSlot(h8), entry(h8, 0)
			long = *pLong ^ tagLong
			*pLong = tagLong | uint32(s+1)
			if t := int(long); t <= posMask && load64(src, t) == v {
				return grow(match{s + 1, t, 8 + matchLength(src, s+9, t+8), false, s}, src, anchor)
			}
			return grow(match{s, t, 4 + matchLength(src, s+4, t+4), false, s}, src, anchor)
		}
	}
	return match{}
}

// grow extends a match to the front.
func grow(m match, src []byte, anchor int) match {
	for m.s > anchor && m.t > 0 && src[m.s-1] == src[m.t-1] {
		m.s--
		m.t--
		m.length++
	}
	return m
}

func (f *finder) longSlot(h uint64) *uint32 {
	return &f.long[h>>(f.longDown&63)&(1<<longBits-1)]
}

func (f *finder) shortSlot(h uint64) *uint32 {
	return &f.short[h>>(f.shortDown&63)&(1<<shortBits-1)]
}

func (f *finder) insertLong(src []byte, pos int) {
	h := hash8(load64(src, pos))
	*f.longSlot(h) = entry(h, pos)
}

func (f *finder) insertShort(src []byte, pos int) {
	h := hash5(load64(src, pos))
	*f.shortSlot(h) = entry(h, pos)
}
