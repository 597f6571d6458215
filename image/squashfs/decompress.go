package squashfs

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/anchore/go-lzo"
	"github.com/coracle-runtime/coracle/image/squashfs/inflate"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/pierrec/lz4/v4"
)

// UnsupportedError tells that an image uses a compressor that we cannot read.
type UnsupportedError struct{ Compression Compression }

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("squashfs image is compressed with %s, which is not supported", e.Compression)
}

// Hint tells how to make an image that can be read.
func (e *UnsupportedError) Hint() string {
	return "repack the image: unsquashfs -d DIR IMAGE && mksquashfs DIR NEW-IMAGE -comp zstd"
}

// decompressor decodes whole blocks of one image. It is safe for concurrent
// use. Decoders with a state are made when the first block needs them.
type decompressor struct {
	compression Compression
	window      int // largest decoded block, bytes

	zstdOnce  sync.Once
	zstd      *zstd.Decoder
	xzReaders sync.Pool
}

func (d *decompressor) init(c Compression, blockSize int) error {
	switch c {
	case Gzip, LZO, XZ, LZ4, Zstd:
	default:
		return &UnsupportedError{c}
	}
	d.compression = c
	d.window = max(blockSize, metadataSize)
	return nil
}

// decompress decodes src into dst and returns the length. A block that does
// not fit is an error.
func (d *decompressor) decompress(dst, src []byte) (n int, err error) {
	switch d.compression {
	case Gzip:
		n, err = inflate.Zlib(dst, src)
	case Zstd:
		n, err = d.unzstd(dst, src)
	default:
		n, err = d.guarded(dst, src)
	}
	if err != nil {
		return 0, fmt.Errorf("decompress %s: %w: %w", d.compression, err, ErrCorrupt)
	}
	return n, nil
}

// guarded runs the decoders that nobody has fuzzed for years. A panic of
// theirs is the image's fault and must not end the FUSE server.
func (d *decompressor) guarded(dst, src []byte) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			if e, ok := p.(runtime.Error); ok {
				n, err = 0, e
				return
			}
			panic(p)
		}
	}()
	switch d.compression {
	case LZ4:
		return lz4.UncompressBlock(src, dst)
	case LZO:
		return lzo.Decompress(src, dst)
	default:
		return d.unxz(dst, src)
	}
}

func (d *decompressor) unzstd(dst, src []byte) (int, error) {
	d.zstdOnce.Do(func() {
		d.zstd, _ = zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(0),
			zstd.WithDecoderMaxMemory(uint64(d.window)),
			zstd.WithDecodeAllCapLimit(true))
	})
	out, err := d.zstd.DecodeAll(src, dst[:0:len(dst)])
	return len(out), err
}

func (d *decompressor) unxz(dst, src []byte) (int, error) {
	z, _ := d.xzReaders.Get().(*xz.Reader)
	var err error
	if z == nil {
		z, err = xz.NewReader(bytes.NewReader(src), uint32(d.window))
	} else {
		err = z.Reset(bytes.NewReader(src))
	}
	if err != nil {
		return 0, err
	}
	n, err := readToEnd(z, dst)
	if err == nil {
		d.xzReaders.Put(z)
	}
	return n, err
}

// readToEnd reads a stream that must end within dst.
func readToEnd(z io.Reader, dst []byte) (n int, err error) {
	for n < len(dst) {
		m, err := z.Read(dst[n:])
		n += m
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	var one [1]byte
	switch m, err := io.ReadFull(z, one[:]); {
	case m > 0:
		return n, fmt.Errorf("more than %d bytes", len(dst))
	case err != io.EOF:
		return n, err
	}
	return n, nil
}
