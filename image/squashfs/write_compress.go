package squashfs

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/coracle-runtime/coracle/image/squashfs/zstdblock"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// writeCompressor compresses whole blocks. Its output depends on nothing but
// src, whatever it compressed before. It is used by one goroutine at a time.
type writeCompressor interface {
	compress(dst, src []byte) ([]byte, error) // dst is overwritten
}

var (
	_ writeCompressor = (*zstd3Compressor)(nil)
	_ writeCompressor = (*zstdCompressor)(nil)
	_ writeCompressor = (*zlibCompressor)(nil)
)

func newWriteCompressor(o WriterOptions) (writeCompressor, error) {
	if o.Compression == Gzip {
		c := &zlibCompressor{}
		var err error
		c.w, err = zlib.NewWriterLevel(&c.buf, o.Level)
		return c, err
	}
	if o.Level == 3 {
		return &zstd3Compressor{}, nil
	}
	// The kernel decodes with a window of one block and refuses frames that
	// ask for more.
	w, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(o.Level)),
		zstd.WithWindowSize(max(o.BlockSize, metadataSize)),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("start zstd: %w", err)
	}
	return &zstdCompressor{w: w}, nil
}

// zstd3Compressor is level 3.
type zstd3Compressor struct{ e zstdblock.Encoder }

func (c *zstd3Compressor) compress(dst, src []byte) ([]byte, error) {
	return c.e.AppendFrame(dst[:0], src), nil
}

// zstdCompressor is the other levels.
type zstdCompressor struct{ w *zstd.Encoder }

func (c *zstdCompressor) compress(dst, src []byte) ([]byte, error) {
	return c.w.EncodeAll(src, dst[:0]), nil
}

type zlibCompressor struct {
	w   *zlib.Writer
	buf bytes.Buffer
}

func (c *zlibCompressor) compress(dst, src []byte) ([]byte, error) {
	c.buf = *bytes.NewBuffer(dst[:0])
	c.w.Reset(&c.buf)
	if _, err := c.w.Write(src); err != nil {
		return nil, fmt.Errorf("deflate: %w", err)
	}
	if err := c.w.Close(); err != nil {
		return nil, fmt.Errorf("deflate: %w", err)
	}
	return c.buf.Bytes(), nil
}

// packData compresses a data block; size is as stored on disk. Where that does
// not make it smaller, raw itself is to be stored.
func packData(c writeCompressor, packed, raw []byte) ([]byte, uint32, error) {
	packed, err := c.compress(packed, raw)
	if err != nil {
		return packed, 0, err
	}
	if len(packed) >= len(raw) {
		return packed, uint32(len(raw)) | dataUncompressed, nil
	}
	return packed, uint32(len(packed)), nil
}

// compressorOptions is the block behind the superblock, with which mksquashfs
// records a level other than its own default; nil where it leaves it out.
func (o WriterOptions) compressorOptions() []byte {
	le := binary.LittleEndian
	var options []byte
	switch {
	case o.Compression == Zstd && o.Level != 15:
		options = le.AppendUint32(options, uint32(o.Level))
	case o.Compression == Gzip && o.Level != 9:
		options = le.AppendUint32(options, uint32(o.Level))
		options = le.AppendUint16(options, 15) // window, log2 of bytes
		options = le.AppendUint16(options, 0)  // strategies: the default one
	default:
		return nil
	}
	return append(le.AppendUint16(nil, uint16(len(options))|metadataUncompressed), options...)
}
