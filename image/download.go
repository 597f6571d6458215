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

// downloads gets an image's layers, several at once, while the first ones are
// being converted. It starts when the first layer is opened.
type downloads struct {
	r      *registry
	layers map[string]*download // by digest
	order  []*download
	start  sync.Once
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	group  errgroup.Group

	done, total atomic.Int64 // bytes
}

type download struct {
	digest string
	size   int64
	ready  chan struct{} // closed when file or err is set
	file   *os.File
	cached bool // it was there already
	err    error
}

func newDownloads(ctx context.Context, r *registry, layers []ociDescriptor) *downloads {
	d := &downloads{r: r, layers: map[string]*download{}}
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.group.SetLimit(parallelDownloads)
	for _, l := range layers {
		if d.layers[l.Digest] == nil {
			one := &download{digest: l.Digest, size: l.Size, ready: make(chan struct{})}
			d.layers[l.Digest] = one
			d.order = append(d.order, one)
		}
	}
	return d
}

// open waits for a layer.
func (d *downloads) open(digest string) (io.ReadCloser, error) {
	d.start.Do(func() { go d.run() })
	one := d.layers[digest]
	select {
	case <-one.ready:
	case <-d.ctx.Done():
		return nil, context.Cause(d.ctx)
	}
	if one.err != nil {
		return nil, one.err
	}
	return io.NopCloser(io.NewSectionReader(one.file, 0, one.size)), nil
}

func (d *downloads) run() {
	var missing []*download
	for _, one := range d.order {
		if one.file, one.cached = d.r.blobs.open(one.digest, one.size); one.cached {
			close(one.ready)
			continue
		}
		missing = append(missing, one)
		d.total.Add(one.size)
	}
	// The top layer first: merging starts with it.
	for i := len(missing) - 1; i >= 0; i-- {
		one := missing[i]
		d.group.Go(func() error {
			defer close(one.ready)
			one.file, one.err = d.get(one)
			return nil
		})
	}
}

// get downloads a layer, again if the connection breaks.
func (d *downloads) get(one *download) (*os.File, error) {
	var f *os.File
	err := d.r.retry(d.ctx, func() (err error) {
		f, err = d.try(one)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("download layer %s: %w", one.digest, d.r.explain(err))
	}
	return f, nil
}

func (d *downloads) try(one *download) (*os.File, error) {
	body, err := d.r.blob(d.ctx, one.digest)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	counted := &downloadReader{d: d, r: body, size: one.size}
	f, err := d.r.blobs.save(one.digest, counted)
	if err != nil {
		d.done.Add(-counted.n)
	}
	return f, err
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
	d.start.Do(func() { d.closeUnstarted() })
	var errs []error
	for _, one := range d.order {
		<-one.ready
		if one.file != nil {
			errs = append(errs, one.file.Close())
		}
	}
	return errors.Join(errs...)
}

func (d *downloads) closeUnstarted() {
	for _, one := range d.order {
		close(one.ready)
	}
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
