package squashfs

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// blockKey names a stored block: where it lies and, for data blocks, the word
// that describes it. The word is part of the key because a hostile image may
// describe one place in two ways.
type blockKey struct {
	pos  uint64
	word uint32
}

// block is a decoded block. Whoever holds one from blockCache.get may read
// data and next until release.
type block struct {
	key  blockKey
	data []byte // decoded bytes, in buf
	next uint64 // of a metadata block: the image offset behind it
	buf  []byte

	loading sync.Mutex // held while the block is being decoded
	loaded  atomic.Bool
	err     error // why it could not be; read after loaded

	// Guarded by blockCache.mu.
	refs         int
	newer, older *block // of the list from the least to the most recently used
}

// blockCache keeps decoded blocks up to a budget, least recently used out
// first. Goroutines that want the same block at once wait for one decoder.
// Buffers are reused, so a cache at its budget makes no garbage.
type blockCache struct {
	load   func(*block) error // fills data (in buf) and next
	budget int64

	mu     sync.Mutex // guards what follows; never held while loading
	used   int64      // bytes of all buffers
	blocks map[blockKey]*block
	ring   block // ring.newer is the oldest block, ring.older the newest
}

func newBlockCache(budget int64, load func(*block) error) *blockCache {
	c := &blockCache{load: load, budget: budget, blocks: map[blockKey]*block{}}
	c.ring.newer, c.ring.older = &c.ring, &c.ring
	return c
}

// get returns the block with a key, decoded; at most size bytes of it are
// expected. The caller must release it.
func (c *blockCache) get(key blockKey, size int) (*block, error) {
	c.mu.Lock()
	if b := c.blocks[key]; b != nil {
		b.refs++
		c.unlink(b)
		c.link(b)
		c.mu.Unlock()
		return c.wait(b)
	}
	b := c.add(key, size)
	c.mu.Unlock()
	return c.fill(b)
}

// peek returns the block if it is there, or is being decoded, else nil.
func (c *blockCache) peek(key blockKey) *block {
	c.mu.Lock()
	b := c.blocks[key]
	if b != nil {
		b.refs++
	}
	c.mu.Unlock()
	if b == nil {
		return nil
	}
	b, err := c.wait(b)
	if err != nil {
		return nil
	}
	return b
}

// reserve enters a block that the caller is going to fill, and release. It
// returns nil if the block is there already.
func (c *blockCache) reserve(key blockKey, size int) *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocks[key] != nil {
		return nil
	}
	return c.add(key, size)
}

// release gives back a block from get or peek.
func (c *blockCache) release(b *block) {
	c.mu.Lock()
	b.refs--
	c.mu.Unlock()
}

// discard gives back a block that is the first to go from now on.
func (c *blockCache) discard(b *block) {
	c.mu.Lock()
	b.refs--
	c.unlink(b)
	b.older, b.newer = &c.ring, c.ring.newer
	b.newer.older, c.ring.newer = b, b
	c.mu.Unlock()
}

// wait returns a block that another goroutine may still be decoding.
func (c *blockCache) wait(b *block) (*block, error) {
	if !b.loaded.Load() {
		b.loading.Lock()
		//lint:ignore SA2001 the decoder held it, and that is all
		b.loading.Unlock()
	}
	if err := b.err; err != nil {
		c.release(b)
		return nil, err
	}
	return b, nil
}

// fill decodes a block from add or reserve. A failure is not kept: it may have been the
// disk's, and the next reader should try again.
func (c *blockCache) fill(b *block) (*block, error) {
	err := c.load(b)
	b.err = err
	b.loaded.Store(true)
	b.loading.Unlock()
	if err == nil {
		return b, nil
	}
	c.mu.Lock()
	delete(c.blocks, b.key)
	c.unlink(b)
	c.used -= int64(len(b.buf))
	c.mu.Unlock()
	return nil, err
}

// add enters a new block with one reference and its loading lock held.
// Called with c.mu held.
func (c *blockCache) add(key blockKey, size int) *block {
	size = bufferSize(size)
	b := c.evict(size)
	if b == nil {
		b = &block{buf: make([]byte, size)}
		c.used += int64(size)
	}
	b.key, b.data, b.next, b.refs = key, nil, 0, 1
	b.err = nil
	b.loaded.Store(false)
	b.loading.Lock()
	c.blocks[key] = b
	c.link(b)
	return b
}

// evict makes room for a buffer. It returns a block to reuse where one of the
// right size had to go. Blocks in use stay, over the budget if need be.
// Called with c.mu held.
func (c *blockCache) evict(size int) *block {
	for b := c.ring.newer; b != &c.ring && c.used+int64(size) > c.budget; {
		next := b.newer
		if b.refs == 0 {
			delete(c.blocks, b.key)
			c.unlink(b)
			if len(b.buf) == size {
				return b
			}
			c.used -= int64(len(b.buf))
		}
		b = next
	}
	return nil
}

func (c *blockCache) link(b *block) {
	b.newer, b.older = &c.ring, c.ring.older
	b.older.newer, c.ring.older = b, b
}

func (c *blockCache) unlink(b *block) {
	b.newer.older, b.older.newer = b.older, b.newer
	b.newer, b.older = nil, nil
}

// bufferSize rounds up to a power of two, so that buffers fit other blocks.
func bufferSize(size int) int {
	return 1 << bits.Len(uint(max(size, minBlockSize)-1))
}
