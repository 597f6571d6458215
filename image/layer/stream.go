package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"strings"
	"sync"

	"github.com/coracle-runtime/coracle/image/squashfs/inflate"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

const (
	chunkSize = 256 << 10
	// aheadBytes is how much of the uncompressed archives is held at most, all
	// layers together: some of the layers that follow get decompressed while the
	// one in use is, and the memory stays a small part of a conversion's.
	aheadBytes = 64 << 20
	maxAhead   = 4 // layers at once
)

// DiffIDError means that a layer is not what the image says.
type DiffIDError struct {
	Layer     string
	Want, Got string // "sha256:…"
}

func (e *DiffIDError) Error() string {
	return fmt.Sprintf("uncompressed content is %s and should be %s", e.Got, e.Want)
}

// Hint tells the cure.
func (e *DiffIDError) Hint() string {
	return "the layer is damaged: fetch the image again, without its cached blobs"
}

// ahead reads layers ahead of their use. Each layer in work has a share of the
// memory for itself, so that one that is needed later never takes what one
// that is needed now waits for.
type ahead struct {
	ctx     context.Context
	cancel  context.CancelFunc
	working sync.WaitGroup
	options Options

	streams []*stream // in the order of use
	started int
	used    int
	share   int // chunks of a layer
	buffers sync.Pool
}

// readAhead prepares to read layers, the last one first.
func readAhead(ctx context.Context, layers []Layer, o Options) *ahead {
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	workers = max(1, min(workers, maxAhead, len(layers)))
	a := &ahead{options: o, share: aheadBytes / chunkSize / workers}
	a.ctx, a.cancel = context.WithCancel(ctx)
	a.buffers.New = func() any { b := make([]byte, chunkSize); return &b }
	for i := len(layers) - 1; i >= 0; i-- {
		a.streams = append(a.streams, &stream{
			ahead: a, layer: layers[i],
			raw: make(chan chunk, 2), hashed: make(chan chunk, a.share), free: make(chan struct{}, a.share),
		})
	}
	for range workers - 1 {
		a.start()
	}
	return a
}

func (a *ahead) start() {
	if a.started == len(a.streams) {
		return
	}
	s := a.streams[a.started]
	a.started++
	a.working.Go(s.produce)
	a.working.Go(s.hash)
}

// next returns the next layer's stream.
func (a *ahead) next() *stream {
	a.start()
	s := a.streams[a.used]
	a.used++
	return s
}

// stop ends all reading and waits for that.
func (a *ahead) stop() {
	a.cancel()
	a.working.Wait()
}

// stream is a layer's uncompressed archive:
//
//	produce (read, decompress) → raw → hash → hashed → Read
//
// It reports the end of the archive only when the digest is right.
type stream struct {
	ahead  *ahead
	layer  Layer
	raw    chan chunk
	hashed chan chunk
	free   chan struct{} // holds one token for each chunk in use

	current chunk // for Read
	rest    []byte
}

// chunk is a part of the archive, and the error that follows it.
type chunk struct {
	buffer *[]byte
	n      int
	err    error
}

// produce runs in a goroutine of its own.
func (s *stream) produce() {
	defer close(s.raw)
	stored, err := s.layer.Open()
	if err != nil {
		s.send(s.raw, chunk{err: err})
		return
	}
	defer stored.Close()
	archive, err := decompress(&countingReader{stored, s.ahead.options.Progress})
	if err != nil {
		s.send(s.raw, chunk{err: fmt.Errorf("decompress: %w", noEOF(err))})
		return
	}
	defer archive.Close()
	for {
		select {
		case s.free <- struct{}{}:
		case <-s.ahead.ctx.Done():
			return
		}
		c := chunk{buffer: s.ahead.buffers.Get().(*[]byte)}
		c.n, c.err = fill(archive, *c.buffer)
		if c.err != nil && c.err != io.EOF {
			c.err = fmt.Errorf("decompress: %w", c.err)
		}
		if !s.send(s.raw, c) || c.err != nil {
			return
		}
	}
}

// noEOF makes an end where there must be none an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fill is io.ReadFull that tells an end from a truncated source.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

// hash runs in a goroutine of its own.
func (s *stream) hash() {
	defer close(s.hashed)
	algorithm, sum := newHash(s.layer.DiffID)
	for c := range s.raw {
		if sum != nil && c.n > 0 {
			sum.Write((*c.buffer)[:c.n])
		}
		if sum != nil && c.err == io.EOF {
			if got := algorithm + ":" + hex.EncodeToString(sum.Sum(nil)); !strings.EqualFold(got, s.layer.DiffID) {
				c.err = &DiffIDError{s.layer.String(), s.layer.DiffID, got}
			}
		}
		if !s.send(s.hashed, c) {
			return
		}
	}
}

// newHash returns the algorithm of a digest, which is SHA-256 save where it says
// otherwise; nil for no digest.
func newHash(digest string) (algorithm string, h hash.Hash) {
	switch {
	case digest == "":
		return "", nil
	case strings.HasPrefix(digest, "sha512:"):
		return "sha512", sha512.New()
	}
	return "sha256", sha256.New()
}

func (s *stream) send(to chan<- chunk, c chunk) bool {
	select {
	case to <- c:
		return true
	case <-s.ahead.ctx.Done():
		return false
	}
}

// Read reads the uncompressed archive.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.current.err != nil {
			return 0, s.current.err
		}
		if !s.receive() {
			return 0, context.Cause(s.ahead.ctx)
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// receive takes the next chunk and gives the last one back.
func (s *stream) receive() bool {
	s.release()
	c, ok := <-s.hashed
	if !ok {
		return false
	}
	s.current = c
	if c.buffer != nil {
		s.rest = (*c.buffer)[:c.n]
	}
	return true
}

func (s *stream) release() {
	if s.current.buffer != nil {
		s.ahead.buffers.Put(s.current.buffer)
		s.current.buffer = nil
		<-s.free
	}
}

// drain reads what follows the archive's end mark, for the digest.
func (s *stream) drain() error {
	for {
		s.rest = nil
		if s.current.err != nil {
			s.release()
			if s.current.err == io.EOF {
				return nil
			}
			return s.current.err
		}
		if !s.receive() {
			return context.Cause(s.ahead.ctx)
		}
	}
}

type countingReader struct {
	r        io.Reader
	progress func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 && c.progress != nil {
		c.progress(int64(n))
	}
	return n, err
}

// decompress detects how stored bytes are compressed, by their first bytes.
func decompress(stored io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(stored, 128<<10)
	head, err := b.Peek(10)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return io.NopCloser(inflate.NewReader(b)), nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), // a frame, or one to skip
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		d, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		r, err := xz.NewReader(b, 64<<20)
		return io.NopCloser(r), err
	case bytes.HasPrefix(head, []byte("BZh")) && len(head) == 10 && string(head[4:]) == "1AY&SY":
		return io.NopCloser(bzip2.NewReader(b)), nil
	}
	return io.NopCloser(b), nil
}
