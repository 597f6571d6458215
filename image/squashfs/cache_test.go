package squashfs

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testCache decodes a block to its position's lowest byte.
func testCache(budget int64, loads *atomic.Int32, wait time.Duration) *blockCache {
	return newBlockCache(budget, func(b *block) error {
		loads.Add(1)
		time.Sleep(wait)
		b.data = b.buf[:1]
		b.data[0] = byte(b.key.pos)
		if b.key.pos == 99 {
			return errors.New("disk")
		}
		return nil
	})
}

func TestCacheDecodesOnceForAllWhoWait(t *testing.T) {
	var loads atomic.Int32
	c := testCache(1<<20, &loads, 50*time.Millisecond)
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			b, err := c.get(blockKey{pos: 7}, 4096)
			if err != nil || b.data[0] != 7 {
				t.Errorf("got %v, %v", b, err)
				return
			}
			c.release(b)
		})
	}
	wait.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("decoded %d times", n)
	}
}

func TestCacheKeepsToItsBudgetAndWhatIsUsed(t *testing.T) {
	var loads atomic.Int32
	c := testCache(8*4096, &loads, 0)
	used, err := c.get(blockKey{pos: 1}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	buffers := map[*byte]bool{}
	for pos := range uint64(90) {
		b, err := c.get(blockKey{pos: pos + 2, word: 5}, 1+int(pos)*40)
		if err != nil {
			t.Fatal(err)
		}
		buffers[&b.buf[0]] = true
		c.release(b)
	}
	if used.data[0] != 1 || c.blocks[used.key] != used {
		t.Error("a block in use was replaced")
	}
	if c.used != 8*4096 || len(c.blocks) != 8 || len(buffers) != 7 {
		t.Errorf("%d bytes in %d blocks, %d buffers", c.used, len(c.blocks), len(buffers))
	}
	// More in use than the budget has room for is served, and given up afterwards.
	var held []*block
	for pos := range uint64(12) {
		b, err := c.get(blockKey{pos: pos + 200}, 4096)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, b)
	}
	for _, b := range held {
		c.release(b)
	}
	b, err := c.get(blockKey{pos: 300}, 8192)
	if err != nil {
		t.Fatal(err)
	}
	c.release(b)
	if c.used > 8*4096 {
		t.Errorf("%d bytes kept", c.used)
	}
}

func TestCacheForgetsLeastRecentlyUsedAndDiscarded(t *testing.T) {
	var loads atomic.Int32
	c := testCache(4*4096, &loads, 0)
	touch := func(pos uint64, drop bool) {
		b, err := c.get(blockKey{pos: pos}, 4096)
		if err != nil {
			t.Fatal(err)
		}
		if drop {
			c.discard(b)
		} else {
			c.release(b)
		}
	}
	for _, pos := range []uint64{1, 2, 3, 4, 1} {
		touch(pos, false)
	}
	touch(4, true)
	touch(5, false) // replaces 4
	touch(6, false) // replaces 2
	for pos, want := range map[uint64]bool{1: true, 2: false, 3: true, 4: false, 5: true, 6: true} {
		if got := c.blocks[blockKey{pos: pos}] != nil; got != want {
			t.Errorf("block %d is there: %v, want %v", pos, got, want)
		}
	}
}

func TestCacheTriesAgainAfterAnError(t *testing.T) {
	var loads atomic.Int32
	c := testCache(1<<20, &loads, 0)
	for range 3 {
		if _, err := c.get(blockKey{pos: 99}, 4096); err == nil {
			t.Fatal("no error")
		}
	}
	if loads.Load() != 3 || c.used != 0 || len(c.blocks) != 0 || c.ring.newer != &c.ring {
		t.Errorf("%d loads, %d bytes, %d blocks", loads.Load(), c.used, len(c.blocks))
	}
}

func TestCacheReservedBlockIsWaitedFor(t *testing.T) {
	var loads atomic.Int32
	c := testCache(1<<20, &loads, 0)
	b := c.reserve(blockKey{pos: 3}, 4096)
	if b == nil || c.reserve(blockKey{pos: 3}, 4096) != nil {
		t.Fatal("reserved twice, or not at all")
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		if _, err := c.fill(b); err == nil {
			c.release(b)
		}
	}()
	got, err := c.get(blockKey{pos: 3}, 4096)
	if err != nil || got.data[0] != 3 || loads.Load() != 1 {
		t.Errorf("got %v, %v after %d loads", got, err, loads.Load())
	}
	c.release(got)
}
