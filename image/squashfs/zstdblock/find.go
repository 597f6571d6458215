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
	s := max(at, 1)
search:
	for s < limit {
		// Find the next match: it begins at s, its source at t.
		var t, length int
		for {
			v := load64(src, s)
			h8, h5 := hash8(v), hash5(v)
			pLong, pShort := &f.long[h8>>(f.longDown&63)&(1<<longBits-1)], &f.short[h5>>(f.shortDown&63)&(1<<shortBits-1)]
			tagLong, tagShort := entry(h8, 0), entry(h5, 0)
			long, short := *pLong^tagLong, *pShort^tagShort
			*pLong, *pShort = tagLong|uint32(s), tagShort|uint32(s)

			if r := s + 1 - near; r >= 0 && load32(src, r) == uint32(v>>8) {
				s++
				length = 4 + matchLength(src, s+4, r+4)
				t = -1
				break
			}
			if long <= posMask {
				if t = int(long); load64(src, t) == v {
					length = 8 + matchLength(src, s+8, t+8)
					break
				}
			}
			if short <= posMask {
				if t = int(short); load32(src, t) == uint32(v) {
					// A longer one at the next byte is better.
					v = load64(src, s+1)
					h8 = hash8(v)
					pLong = &f.long[h8>>(f.longDown&63)&(1<<longBits-1)]
					tagLong = entry(h8, 0)
					long = *pLong ^ tagLong
					*pLong = tagLong | uint32(s+1)
					if long <= posMask && load64(src, int(long)) == v {
						s++
						t = int(long)
						length = 8 + matchLength(src, s+8, t+8)
						break
					}
					length = 4 + matchLength(src, s+4, t+4)
					break
				}
			}
			s += 1 + (s-anchor)>>8
			if s >= limit {
				break search
			}
		}
		first := s // before it grows to the front
		offset := uint32(1)
		if t >= 0 {
			for s > anchor && t > 0 && src[s-1] == src[t-1] {
				s--
				t--
				length++
			}
			far, near = near, s-t
			offset = uint32(near) + 3
		}
		lits = append(lits, src[anchor:s]...)
		seqs = append(seqs, sequence{uint32(s - anchor), uint32(length), offset})
		s += length
		anchor = s
		if s >= limit {
			break
		}
		f.insertLong(src, first+2)
		f.insertLong(src, s-2)
		f.insertShort(src, first+2)
		f.insertShort(src, s-1)
		// With no literals between, the last distance but one is cheap.
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

func (f *finder) insertLong(src []byte, pos int) {
	h := hash8(load64(src, pos))
	f.long[h>>(f.longDown&63)&(1<<longBits-1)] = entry(h, pos)
}

func (f *finder) insertShort(src []byte, pos int) {
	h := hash5(load64(src, pos))
	f.short[h>>(f.shortDown&63)&(1<<shortBits-1)] = entry(h, pos)
}
