package squashfs

import (
	"fmt"
	"io"
	"sync"
)

// writePipe compresses blocks in parallel and writes them in the order in which
// they were submitted:
//
//	get → fill raw → submit ─┬→ jobs  → worker: compress ─┐ ready
//	                         └→ order → committer ────────┴→ write → get
//
// The number of blocks bounds its memory; get waits for one. Only the
// goroutine that uses the Writer calls get, submit, wait and drain.
type writePipe struct {
	out       Output
	blockSize int
	free      chan *writeBlock
	jobs      chan *writeBlock
	order     chan *writeBlock
	running   sync.WaitGroup
	closing   sync.Once
	submitted uint64

	mu        sync.Mutex // guards what follows
	moved     *sync.Cond // committed or err changed
	committed uint64
	pos       int64 // where the next block goes
	err       error // the first one
}

// writeBlock is a block on its way: of a file, or a block of fragments.
type writeBlock struct {
	raw    []byte
	packed []byte
	size   uint32 // as stored in the inode or the fragment table
	err    error
	ready  chan struct{} // holds a token once packed, size and err are set

	plain    bool           // not to be compressed
	data     *Data          // whose block it is, or
	index    int64          // its number in the file
	fragment *writeFragment // what it is
}

// blocksPerWorker is enough to keep the workers busy while the committer
// waits for the oldest block.
const blocksPerWorker = 3

func newWritePipe(out Output, blockSize int, compressors []writeCompressor) *writePipe {
	n := blocksPerWorker*len(compressors) + 2
	p := &writePipe{
		out:       out,
		blockSize: blockSize,
		free:      make(chan *writeBlock, n),
		jobs:      make(chan *writeBlock, n),
		order:     make(chan *writeBlock, n),
	}
	p.moved = sync.NewCond(&p.mu)
	for range n {
		p.free <- &writeBlock{ready: make(chan struct{}, 1)}
	}
	for _, c := range compressors {
		p.running.Go(func() { p.work(c) })
	}
	p.running.Go(p.commit)
	return p
}

// get waits for a free block; its raw is blockSize long.
func (p *writePipe) get() (*writeBlock, error) {
	b := <-p.free
	if err := p.failed(); err != nil {
		p.free <- b
		return nil, err
	}
	if b.raw == nil {
		b.raw = make([]byte, p.blockSize)
	}
	b.raw = b.raw[:p.blockSize]
	return b, nil
}

// put gives back a block that is not to be written.
func (p *writePipe) put(b *writeBlock) { p.free <- b }

// submit hands in block index of d. Its number in the pipe goes to d.seq.
func (p *writePipe) submit(b *writeBlock, d *Data, index int64) {
	p.submitted++
	d.seq = p.submitted
	b.data, b.index, b.fragment, b.plain = d, index, nil, d.plain
	p.order <- b
	p.jobs <- b
}

// submitFragment hands in a block of fragments.
func (p *writePipe) submitFragment(b *writeBlock, f *writeFragment) {
	p.submitted++
	f.seq = p.submitted
	b.data, b.fragment, b.plain = nil, f, false
	p.order <- b
	p.jobs <- b
}

// Runs in: one goroutine per compressor.
func (p *writePipe) work(c writeCompressor) {
	for b := range p.jobs {
		if b.plain {
			b.size, b.err = uint32(len(b.raw))|dataUncompressed, nil
		} else {
			b.packed, b.size, b.err = packData(c, b.packed, b.raw)
		}
		b.ready <- struct{}{}
	}
}

// Runs in: one goroutine. After an error it goes on taking blocks, so that
// nobody waits for it in vain, but writes no more.
func (p *writePipe) commit() {
	for b := range p.order {
		<-b.ready
		if b.err != nil {
			p.fail(b.err)
		}
		p.commitBlock(b)
		p.free <- b
	}
}

func (p *writePipe) commitBlock(b *writeBlock) {
	p.mu.Lock()
	pos, failed := p.pos, p.err != nil
	p.mu.Unlock()
	stored := b.packed
	if b.size&dataUncompressed != 0 {
		stored = b.raw
	}
	if !failed {
		if err := writeWhole(p.out, stored, pos); err != nil {
			p.fail(err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.fragment != nil {
		b.fragment.start, b.fragment.size = pos, b.size
	} else {
		b.data.placeBlock(b.index, pos, b.size)
	}
	p.pos += int64(len(stored))
	p.committed++
	p.moved.Broadcast()
}

// placeBlock notes where a block was stored. Blocks come in order; those left
// out are zero blocks.
func (d *Data) placeBlock(index, pos int64, size uint32) {
	if d.start == 0 {
		d.start = pos
	}
	for int64(len(d.blocks)) < index {
		d.blocks = append(d.blocks, 0)
	}
	d.blocks = append(d.blocks, size)
}

// wait returns when block seq is written, or with the pipe's first error.
func (p *writePipe) wait(seq uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.committed < seq && p.err == nil {
		p.moved.Wait()
	}
	return p.err
}

// drain waits for all blocks and returns where the next byte goes.
func (p *writePipe) drain() (int64, error) {
	if err := p.wait(p.submitted); err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pos, nil
}

func (p *writePipe) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.moved.Broadcast()
}

func (p *writePipe) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// close ends the goroutines when they have done what was submitted.
func (p *writePipe) close() {
	p.closing.Do(func() {
		close(p.jobs)
		close(p.order)
		p.running.Wait()
	})
}

func writeWhole(out io.WriterAt, b []byte, pos int64) error {
	n, err := out.WriteAt(b, pos)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write image at byte %d: %w", pos, err)
	}
	return nil
}
