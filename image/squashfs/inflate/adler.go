package inflate

import "encoding/binary"

const (
	adlerMod   = 65521
	adlerGroup = 21 * 8 // bytes whose sums of sums fit 16 bits: 255*21*22/2 < 1<<16
	adlerRun   = 5552 / adlerGroup * adlerGroup
)

// adler32 is the checksum of RFC 1950, section 8.2, eight bytes at a time:
// even and odd bytes are added up in four lanes of 16 bits each.
func adler32(p []byte) uint32 {
	const even = 0x00ff00ff00ff00ff
	a, b := uint32(1), uint32(0)
	for len(p) >= adlerGroup {
		run := p[:min(len(p), adlerRun)/adlerGroup*adlerGroup]
		p = p[len(run):]
		for ; len(run) >= adlerGroup; run = run[adlerGroup:] {
			var lo, hi, sumLo, sumHi uint64 // sums of bytes by lane, and sums of these before each step
			for i := 0; i < adlerGroup; i += 8 {
				v := binary.LittleEndian.Uint64(run[i : i+8 : adlerGroup])
				sumLo += lo
				sumHi += hi
				lo += v & even
				hi += v >> 8 & even
			}
			b += adlerGroup*a + 8*(lanes(sumLo)+lanes(sumHi)) + weighted(lo, 8) + weighted(hi, 7)
			a += lanes(lo) + lanes(hi)
		}
		a %= adlerMod
		b %= adlerMod
	}
	for _, c := range p {
		a += uint32(c)
		b += a
	}
	return b%adlerMod<<16 | a%adlerMod
}

// lanes adds up the four lanes of a word.
func lanes(v uint64) uint32 {
	return uint32(v&0xffff + v>>16&0xffff + v>>32&0xffff + v>>48)
}

// weighted adds up the lanes times their weights: w, w-2, w-4, w-6.
func weighted(v uint64, w uint32) uint32 {
	return uint32(v&0xffff)*w + uint32(v>>16&0xffff)*(w-2) + uint32(v>>32&0xffff)*(w-4) + uint32(v>>48)*(w-6)
}
