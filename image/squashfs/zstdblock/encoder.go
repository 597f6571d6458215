package zstdblock

import (
	"encoding/binary"
	"math/bits"

	"github.com/klauspost/compress/huff0"
)

// MaxSize is the most that one frame holds, in bytes.
const MaxSize = 1 << 20

// Limits of the format, RFC 8878 section 3.1.1.2.4.
const (
	frameMagic   = 0xFD2FB528
	maxBlockSize = 128 << 10
	minMatch     = 3 // shortest that can be encoded
)

// Types of a block, and of its literals.
const (
	blockRaw        = 0
	blockCompressed = 2

	literalsRaw        = 0
	literalsRLE        = 1
	literalsCompressed = 2
)

// Encoder compresses one block at a time. The zero value is ready for use.
type Encoder struct {
	finder   finder
	huffman  huff0.Scratch
	coder    sequenceCoder
	literals []byte
	seqs     []sequence
}

// sequence is a run of literals and the match that follows it.
type sequence struct {
	literals uint32
	match    uint32 // length
	offset   uint32 // as encoded: 1 to 3 repeat an earlier one, others are 3 more than the distance
}

// AppendFrame compresses src, of at most MaxSize bytes, and appends the frame
// to dst.
func (e *Encoder) AppendFrame(dst, src []byte) []byte {
	dst = appendFrameHeader(dst, len(src))
	e.finder.start(src)
	for at := 0; ; {
		end := min(at+maxBlockSize, len(src))
		dst = e.appendBlock(dst, at, end, end == len(src))
		if end == len(src) {
			return dst
		}
		at = end
	}
}

// appendFrameHeader describes a frame of one segment, so that the window is
// just the content.
func appendFrameHeader(dst []byte, size int) []byte {
	const singleSegment = 1 << 5
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, frameMagic)
	switch {
	case size < 256:
		return append(dst, singleSegment, byte(size))
	case size < 256+1<<16:
		return le.AppendUint16(append(dst, singleSegment|1<<6), uint16(size-256))
	}
	return le.AppendUint32(append(dst, singleSegment|2<<6), uint32(size))
}

func appendBlockHeader(dst []byte, kind, size int, last bool) []byte {
	h := uint32(kind<<1 | size<<3)
	if last {
		h |= 1
	}
	return append(dst, byte(h), byte(h>>8), byte(h>>16))
}

// appendBlock compresses bytes at to end of the frame.
func (e *Encoder) appendBlock(dst []byte, at, end int, last bool) []byte {
	src := e.finder.src[at:end]
	start := len(dst)
	repeats := e.finder.repeats
	e.literals, e.seqs = e.finder.find(e.literals[:0], e.seqs[:0], at, end)
	dst = appendBlockHeader(dst, 0, 0, false) // to be overwritten
	dst = e.appendLiterals(dst)
	dst = e.coder.append(dst, e.seqs)
	size := len(dst) - start - 3
	if size < len(src) {
		appendBlockHeader(dst[:start], blockCompressed, size, last)
		return dst
	}
	e.finder.repeats = repeats // the decoder does not see these sequences
	dst = appendBlockHeader(dst[:start], blockRaw, len(src), last)
	return append(dst, src...)
}

// appendLiterals encodes the literals section, RFC 8878 section 3.1.1.3.1.
func (e *Encoder) appendLiterals(dst []byte) []byte {
	lits := e.literals
	e.huffman.Reuse = huff0.ReusePolicyNone
	var packed []byte
	var err error
	streams := 4
	switch {
	case len(lits) < 32:
		err = huff0.ErrIncompressible
	case len(lits) < 1024:
		streams = 1
		packed, _, err = huff0.Compress1X(lits, &e.huffman)
	default:
		packed, _, err = huff0.Compress4X(lits, &e.huffman)
	}
	switch {
	case err == huff0.ErrUseRLE:
		return append(appendRawHeader(dst, literalsRLE, len(lits)), lits[0])
	case err != nil || len(packed)+5 >= len(lits):
		return append(appendRawHeader(dst, literalsRaw, len(lits)), lits...)
	}
	return append(appendPackedHeader(dst, len(packed), len(lits), streams), packed...)
}

// appendRawHeader is the header of literals that are not compressed.
func appendRawHeader(dst []byte, kind byte, size int) []byte {
	switch {
	case size < 1<<5:
		return append(dst, kind|byte(size)<<3)
	case size < 1<<12:
		return append(dst, kind|1<<2|byte(size)<<4, byte(size>>4))
	}
	return append(dst, kind|3<<2|byte(size)<<4, byte(size>>4), byte(size>>12))
}

// appendPackedHeader is the header of literals that are Huffman coded.
func appendPackedHeader(dst []byte, packed, size, streams int) []byte {
	width, format := 18, 3 // bits of each size
	switch {
	case streams == 1:
		width, format = 10, 0
	case size < 1<<10:
		width, format = 10, 1
	case size < 1<<14:
		width, format = 14, 2
	}
	h := uint64(literalsCompressed | format<<2 | size<<4 | packed<<(4+width))
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], h)
	return append(dst, b[:(4+2*width+7)/8]...)
}

func highBit(x uint32) uint8 { return uint8(31 - bits.LeadingZeros32(x)) }
