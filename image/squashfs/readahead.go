package squashfs

import (
	"sync"
	"sync/atomic"
)

// readAhead decodes what a sequential reader will ask for next into the cache,
// on cores that nothing else decodes on. It guesses from the requests alone:
// a file read in order gets its following blocks, and fragment blocks met in
// order (a tree being copied) get the one that follows.
type readAhead struct {
	r     *Reader
	limit int32        // decoders at a time, ours and the callers'
	busy  atomic.Int32 // decoders at work

	mu       sync.Mutex // guards what follows
	streams  [16]stream
	turn     int       // the stream to be replaced next
	tails    [4]uint32 // fragment blocks read of late
	tailTurn int
}

// stream is a file being read.
type stream struct {
	ref   Ref
	end   uint64 // behind the highest byte asked for
	ahead uint64 // blocks below this one have been decoded, or asked for
	inRow int    // requests that followed one another
}

// aheadBlocks bounds how many blocks of one file are decoded ahead.
const aheadBlocks = 4

func newReadAhead(r *Reader, cores int) *readAhead {
	none := uint32(noFragment)
	return &readAhead{r: r, limit: int32(cores), tails: [4]uint32{none, none, none, none}}
}

// enter and leave count a caller's read as a decoder at work.
func (a *readAhead) enter() {
	if a != nil {
		a.busy.Add(1)
	}
}

func (a *readAhead) leave() {
	if a != nil {
		a.busy.Add(-1)
	}
}

// start decodes a block in the background, if a core is free for it. The block
// is entered at once, so that a reader who is faster waits for it.
func (a *readAhead) start(key blockKey, size int) bool {
	if a.busy.Add(1) > a.limit {
		a.busy.Add(-1)
		return false
	}
	b := a.r.data.reserve(key, size)
	if b == nil {
		a.busy.Add(-1)
		return true
	}
	go func() {
		defer a.busy.Add(-1)
		if _, err := a.r.data.fill(b); err == nil { // who needs the block will see the error
			a.r.data.release(b)
		}
	}()
	return true
}

// note is told of every read of a file before it is served.
func (a *readAhead) note(in *Inode, off, size uint64) {
	if a == nil || in.blockCount < 2 {
		return
	}
	from, to := a.next(in, off, off+size)
	if from >= to || a.busy.Load() >= a.limit {
		return
	}
	done := a.schedule(in, from, to)
	a.mu.Lock()
	if s := a.find(in.Ref); s != nil {
		s.ahead = max(s.ahead, done)
	}
	a.mu.Unlock()
}

// next enters a request and returns which blocks should be decoded after it.
func (a *readAhead) next(in *Inode, off, end uint64) (from, to uint64) {
	bs := uint64(a.r.sb.BlockSize)
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.find(in.Ref)
	if s == nil {
		a.streams[a.turn] = stream{ref: in.Ref, end: end}
		a.turn = (a.turn + 1) % len(a.streams)
		return 0, 0
	}
	switch {
	case end <= s.end && s.end-end <= 4*bs:
		return 0, 0 // the kernel's requests overtake one another
	case off > s.end+bs || end <= s.end:
		*s = stream{ref: in.Ref, end: end}
		return 0, 0
	}
	s.inRow++
	s.end = end
	next := (end + bs - 1) / bs
	return max(next, s.ahead), min(next+aheadBlocks, in.blockCount)
}

// find is called with mu held.
func (a *readAhead) find(ref Ref) *stream {
	for i := range a.streams {
		if s := &a.streams[i]; s.ref == ref && s.end > 0 {
			return s
		}
	}
	return nil
}

// schedule starts decoders for a file's blocks and returns the first one left out.
func (a *readAhead) schedule(in *Inode, from, to uint64) uint64 {
	bs := uint64(a.r.sb.BlockSize)
	c, pos, err := a.r.openBlocks(in, from)
	if err != nil {
		return from
	}
	defer c.close()
	for i := from; i < to; i++ {
		word, err := c.blockSize()
		if err != nil {
			return i
		}
		key, size := blockKey{pos, word}, int(min(bs, in.Size-i*bs))
		pos += uint64(word &^ dataUncompressed)
		if word == 0 || word&dataUncompressed != 0 {
			continue // costs the reader nothing
		}
		if a.r.checkStored(key, size) != nil || !a.start(key, size) {
			return i
		}
	}
	return to
}

// noteTail is told of every read of a fragment block.
func (a *readAhead) noteTail(i uint32) {
	if a == nil || !a.nextTail(i) || uint64(i)+1 >= a.r.fragments.count {
		return
	}
	key, err := a.r.fragmentKey(i + 1)
	if err == nil && key.word&dataUncompressed == 0 {
		a.start(key, int(a.r.sb.BlockSize))
	}
}

// nextTail enters a fragment block and reports whether it is the first time
// of late, and follows another one.
func (a *readAhead) nextTail(i uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	inOrder := false
	for _, tail := range a.tails {
		if tail == i {
			return false
		}
		inOrder = inOrder || tail+1 == i && tail != noFragment
	}
	a.tails[a.tailTurn] = i
	a.tailTurn = (a.tailTurn + 1) % len(a.tails)
	return inOrder
}
