package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

const parallelDownloads = 4

// downloads gets an image's layers, several at once, while what has come is
// being converted. It starts when the first layer is opened.
type downloads struct {
	r      *registry
	layers map[string]*download // by digest
	order  []*download
	start  sync.Once
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	group  sync.WaitGroup

	done, total atomic.Int64 // bytes
}

// download is one layer. It may be read while it comes.
type download struct {
	digest string
	size   int64
	cached bool // it was there already

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	file    *os.File // nil before the first byte, and between two tries
	written int64    // bytes that file holds
	ended   bool     // file is whole and verified, or err is set
	err     error
}

func newDownloads(ctx context.Context, r *registry, layers []ociDescriptor) *downloads {
	d := &downloads{r: r, layers: map[string]*download{}}
	d.ctx, d.cancel = context.WithCancel(ctx)
	for _, l := range layers {
		if d.layers[l.Digest] == nil {
			one := &download{digest: l.Digest, size: l.Size, changed: make(chan struct{})}
			d.layers[l.Digest] = one
			d.order = append(d.order, one)
		}
	}
	return d
}

// open returns a reader that waits for what has not come yet.
func (d *downloads) open(digest string) (io.ReadCloser, error) {
	d.start.Do(d.run)
	return io.NopCloser(&follower{ctx: d.ctx, d: d.layers[digest]}), nil
}

func (d *downloads) run() {
	var missing []*download
	for _, one := range d.order {
		if f, ok := d.r.blobs.open(one.digest, one.size); ok {
			one.cached = true
			one.set(f, one.size)
			one.end(nil)
			continue
		}
		missing = append(missing, one)
		d.total.Add(one.size)
	}
	d.group.Go(func() {
		var parallel errgroup.Group
		parallel.SetLimit(parallelDownloads)
		// The top layer first: merging starts with it.
		for i := len(missing) - 1; i >= 0; i-- {
			parallel.Go(func() error {
				missing[i].end(d.get(missing[i]))
				return nil
			})
		}
		_ = parallel.Wait() // each layer keeps its error
	})
}

// get downloads a layer, again if the connection breaks.
func (d *downloads) get(one *download) error {
	err := d.r.retry(d.ctx, func() error {
		body, err := d.r.blob(d.ctx, one.digest)
		if err != nil {
			return err
		}
		defer body.Close()
		counted := &downloadReader{d: d, r: body, size: one.size}
		if err := d.r.blobs.save(one.digest, counted, one.set); err != nil {
			d.done.Add(-counted.n)
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("download layer %s: %w", one.digest, d.r.explain(err))
	}
	return nil
}

// set tells readers how much there is; a nil file is that of a try that failed.
func (one *download) set(f *os.File, written int64) {
	one.mu.Lock()
	defer one.mu.Unlock()
	one.file, one.written = f, written
	one.wake()
}

func (one *download) end(err error) {
	one.mu.Lock()
	defer one.mu.Unlock()
	one.ended, one.err = true, err
	one.wake()
}

// wake lets waiting readers look again. The caller holds mu.
func (one *download) wake() {
	close(one.changed)
	one.changed = make(chan struct{})
}

// readAt reads what there is at off: at most to the end of what was written.
// The channel tells when there is more, where there is nothing yet.
func (one *download) readAt(p []byte, off int64) (n int, wait <-chan struct{}, err error) {
	one.mu.Lock()
	defer one.mu.Unlock()
	switch {
	case one.err != nil:
		return 0, nil, one.err
	case one.file != nil && off < one.written:
		n, err = one.file.ReadAt(p[:min(int64(len(p)), one.written-off)], off)
		return n, nil, err
	case one.ended:
		return 0, nil, io.EOF
	}
	return 0, one.changed, nil
}

// follower reads a layer while it is downloaded. What it gave is verified only
// by its end; when a download is tried again, it goes on where it was, and the
// digest of the uncompressed layer tells if the tries were not the same.
type follower struct {
	ctx context.Context
	d   *download
	off int64
}

func (f *follower) Read(p []byte) (int, error) {
	for {
		n, wait, err := f.d.readAt(p, f.off)
		f.off += int64(n)
		if wait == nil {
			return n, err
		}
		select {
		case <-wait:
		case <-f.ctx.Done():
			return 0, context.Cause(f.ctx)
		}
	}
}

// downloadReader counts the bytes of all layers together. It fails before the
// end of a layer whose size is not what the manifest says; the reader below it
// holds the content to the digest.
type downloadReader struct {
	d       *downloads
	r       io.Reader
	n, size int64
}

func (r *downloadReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	done := r.d.done.Add(int64(n))
	r.d.r.o.progress(Event{"download", done, r.d.total.Load()})
	if r.n > r.size || err == io.EOF && r.n < r.size {
		return n, fmt.Errorf("%d bytes came, and there should be %d", r.n, r.size)
	}
	return n, err
}

// Close stops what still runs and releases the layers.
func (d *downloads) Close() error {
	d.cancel()
	d.start.Do(func() {}) // or nothing was started
	d.group.Wait()
	var errs []error
	for _, one := range d.order {
		if one.file != nil {
			errs = append(errs, one.file.Close())
		}
	}
	return errors.Join(errs...)
}

// removeDamaged removes layers from the store that were there before and are
// not what they should be, so that the next try downloads them.
func (d *downloads) removeDamaged() {
	for _, one := range d.order {
		if one.cached && d.r.blobs.removeDamaged(one.digest) {
			d.r.o.log().Warn("removed a damaged layer from the cache", "digest", one.digest)
		}
	}
}
