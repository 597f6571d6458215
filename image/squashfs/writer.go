package squashfs

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"runtime"
	"time"
)

// WriterOptions say how an image is written. The zero value is usable.
type WriterOptions struct {
	Compression Compression // Zstd (default) or Gzip
	Level       int         // of the compressor; 0 is 3 for zstd (1 to 22), 6 for gzip (1 to 9)
	BlockSize   int         // bytes, a power of two from 4 KiB to 1 MiB; 0 is 128 KiB
	Workers     int         // that compress; 0 is one per usable processor. No effect on the bytes written.
	ModTime     time.Time   // of the image, in its superblock; the zero Time is the epoch
}

// Output is where an image is written, from offset 0 on. It is also read, to
// compare duplicate files with what is already there; reads and writes may come
// at the same time.
type Output interface {
	io.WriterAt
	io.ReaderAt
}

// Writer makes a SquashFS 4.0 image: file contents first, in the order of the
// WriteData calls, then the tree. Blocks are compressed by several goroutines
// and written in order by one, so that the bytes of the image depend only on
// the calls and the options, never on the number of workers or their timing.
//
// A Writer is used by one goroutine at a time. Close it in any case.
type Writer struct {
	options   WriterOptions
	pipe      *writePipe
	dedupe    writeDedupe
	fragments writeFragments
	small     []byte // scratch for the content of a small file
	plain     bool   // the file being written is not to be compressed

	dropped  map[string]bool // names of extended attributes that were not stored
	finished bool
}

// NewWriter starts an image in out. The options are checked; other compressors
// than zstd and gzip are an error.
func NewWriter(out Output, o WriterOptions) (*Writer, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("write squashfs: %w", err)
	}
	w := &Writer{
		options: o,
		small:   make([]byte, o.BlockSize),
		dropped: map[string]bool{},
	}
	if err := w.dedupe.init(w); err != nil {
		return nil, fmt.Errorf("write squashfs: %w", err)
	}
	w.fragments.w = w
	compressors := make([]writeCompressor, o.Workers)
	for i := range compressors {
		var err error
		if compressors[i], err = newWriteCompressor(o); err != nil {
			return nil, fmt.Errorf("write squashfs: %w", err)
		}
	}
	w.pipe = newWritePipe(out, o.BlockSize, compressors)
	w.pipe.pos = superblockSize + int64(len(o.compressorOptions()))
	return w, nil
}

func (o *WriterOptions) complete() error {
	if o.Compression == 0 {
		o.Compression = Zstd
	}
	if o.BlockSize == 0 {
		o.BlockSize = defaultBlockSize
	}
	if o.BlockSize < minBlockSize || o.BlockSize > maxBlockSize || bits.OnesCount(uint(o.BlockSize)) != 1 {
		return fmt.Errorf("block size %d: must be a power of two from %d to %d", o.BlockSize, minBlockSize, maxBlockSize)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	best, standard := 22, 3
	switch o.Compression {
	case Zstd:
	case Gzip:
		best, standard = 9, 6
	default:
		return fmt.Errorf("compression %v: can write only zstd and gzip", o.Compression)
	}
	if o.Level == 0 {
		o.Level = standard
	}
	if o.Level < 1 || o.Level > best {
		return fmt.Errorf("compression level %d: %v has 1 to %d", o.Level, o.Compression, best)
	}
	return nil
}

// WriteData stores the next size bytes of r as the content of a file and
// returns once they are read; what follows them in r is left there. An r that
// ends early is io.ErrUnexpectedEOF. After any error the image is lost: every
// later call, Finish included, returns an error. Errors of the output may only
// come out of a later call.
func (w *Writer) WriteData(r io.Reader, size int64) (*Data, error) {
	if w.finished {
		return nil, errWriterFinished
	}
	d, err := w.writeData(r, size)
	if err != nil {
		w.pipe.fail(err)
		return nil, fmt.Errorf("write squashfs: %w", err)
	}
	return d, nil
}

// WritePlain is WriteData without compression, for what is read each time an
// image is used: blocks that need no decoding come straight out of the page
// cache. Files smaller than a block are packed with others and are compressed all
// the same.
func (w *Writer) WritePlain(r io.Reader, size int64) (*Data, error) {
	w.plain = true
	defer func() { w.plain = false }()
	return w.WriteData(r, size)
}

var errWriterFinished = errors.New("write squashfs: already finished")

func (w *Writer) writeData(r io.Reader, size int64) (*Data, error) {
	if size < 0 {
		return nil, fmt.Errorf("file of %d bytes", size)
	}
	if err := w.pipe.failed(); err != nil {
		return nil, err
	}
	f := writeFile{w: w, d: &Data{writer: w, size: size, plain: w.plain, fragment: noFragment}}
	if size < int64(w.options.BlockSize) {
		content := w.small[:size]
		if err := readWhole(r, content, 0, size); err != nil {
			return nil, err
		}
		if err := f.addSmall(content); err != nil {
			return nil, err
		}
		return f.end(), nil
	}
	for off := int64(0); off < size; {
		b, err := w.pipe.get()
		if err != nil {
			return nil, err
		}
		b.raw = b.raw[:min(int64(len(b.raw)), size-off)]
		if err := readWhole(r, b.raw, off, size); err != nil {
			w.pipe.put(b)
			return nil, err
		}
		off += int64(len(b.raw))
		if err := f.add(b); err != nil {
			return nil, err
		}
	}
	return f.end(), nil
}

// readWhole fills p, which lies at off in a file of size bytes.
func readWhole(r io.Reader, p []byte, off, size int64) error {
	n, err := io.ReadFull(r, p)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("read content: ends at byte %d of %d: %w", off+int64(n), size, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read content: %w", err)
}

// Finish writes the tree under root, a directory, and the tables, and returns
// the image's size in bytes, padded to 4 KiB. The superblock is written last:
// an image that was not finished is not one. Nothing beyond the size is ever
// written.
func (w *Writer) Finish(root *Node) (int64, error) {
	if w.finished {
		return 0, errWriterFinished
	}
	w.finished = true
	size, err := w.finish(root)
	if err != nil {
		w.pipe.fail(err)
		return 0, fmt.Errorf("write squashfs: %w", err)
	}
	return size, nil
}

func (w *Writer) finish(root *Node) (int64, error) {
	tree, err := newWriteTree(w, root)
	if err != nil {
		return 0, err
	}
	w.fragments.flush()
	pos, err := w.pipe.drain()
	if err != nil {
		return 0, err
	}
	c, err := newWriteCompressor(w.options)
	if err != nil {
		return 0, err
	}
	return writeTables(w, tree, c, pos)
}

// DroppedXattrs names the extended attributes of the finished tree that the
// format cannot hold, sorted: those outside user., trusted. and security.
// (such as system.posix_acl_access), and those with a name or value longer than
// Linux allows.
func (w *Writer) DroppedXattrs() []string { return sortedKeys(w.dropped) }

// Close ends the workers. It may be called at any time, also twice.
func (w *Writer) Close() error {
	w.finished = true
	w.pipe.close()
	return nil
}

// clampTime is t, in seconds since the epoch, as the format stores it.
func clampTime(t int64) uint32 {
	return uint32(min(max(t, 0), math.MaxUint32))
}
