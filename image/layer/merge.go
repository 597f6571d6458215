package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// Layer is one layer of an image: a tar archive, maybe compressed.
type Layer struct {
	// Open starts a reading of the stored bytes. It is called once, and a second
	// time in rare cases (see the package comment). The reader must end when the
	// caller's context does.
	Open   func() (io.ReadCloser, error)
	Size   int64  // stored bytes
	DiffID string // "sha256:…" or "sha512:…" of the uncompressed archive; verified unless empty
	Name   string // for messages
}

func (l Layer) String() string {
	if l.Name != "" {
		return l.Name
	}
	if l.DiffID != "" {
		return l.DiffID
	}
	return "layer"
}

// Store keeps file contents. *squashfs.Writer is one.
type Store interface {
	WriteData(r io.Reader, size int64) (*squashfs.Data, error)
}

// Options of Merge and FromDir. The zero value works.
type Options struct {
	// Workers is the number of layers that are read at once; 0 stands for the
	// number of processors. It has no influence on the result.
	Workers int
	// Progress is told of stored bytes as they are read (of FromDir: of the files'
	// bytes), how many since its last call. It is called from several goroutines.
	Progress func(storedBytes int64)
}

// Merge merges layers, bottom first, into one tree, with the file contents in
// store. Its memory is bounded: some 64 MiB of archives read ahead, and the
// names and attributes of all entries, at most 2 GiB.
//
// An error names the layer, and the entry where there is one. It is a
// *DiffIDError where a layer is not what its DiffID says.
func Merge(ctx context.Context, layers []Layer, store Store, o Options) (*squashfs.Node, error) {
	m := &merge{store: store, options: o, budget: maxMetadata}
	changes, err := m.readAll(ctx, layers)
	if err != nil {
		return nil, err
	}
	t := &tree{root: newDir()}
	for _, c := range changes {
		if err := t.apply(ctx, c); err != nil {
			return nil, fmt.Errorf("apply layer %v: %w", c.layer, err)
		}
	}
	if err := m.storeMissing(ctx, t.root, changes); err != nil {
		return nil, err
	}
	return t.root, nil
}

// merge is the state of one Merge.
type merge struct {
	store   Store
	options Options
	budget  int64 // bytes of metadata that may still be kept
}

// maxMetadata bounds the memory for names and attributes, by the estimates of
// charge. An image of two million files fits.
const maxMetadata = 2 << 30

func (m *merge) charge(bytes int) error {
	if m.budget -= int64(bytes); m.budget < 0 {
		return errors.New("names and attributes of all layers take more than 2 GiB")
	}
	return nil
}

// readAll reads the layers from the top down and returns their changes, bottom
// first.
func (m *merge) readAll(ctx context.Context, layers []Layer) ([]*changes, error) {
	ahead := readAhead(ctx, layers, m.options)
	defer ahead.stop()
	upper := &cover{}
	all := make([]*changes, len(layers))
	for i := len(layers) - 1; i >= 0; i-- {
		c, err := m.read(ctx, layers[i], ahead.next(), upper)
		if err != nil {
			return nil, fmt.Errorf("read layer %v: %w", layers[i], err)
		}
		upper.add(c)
		all[i] = c
	}
	return all, nil
}

// read reads one layer, and stores the contents that upper does not hide.
func (m *merge) read(ctx context.Context, l Layer, s *stream, upper *cover) (*changes, error) {
	c := newChanges(l)
	archive := tar.NewReader(s)
	for index := 0; ; index++ {
		header, err := archive.Next()
		if err == io.EOF {
			return c, s.drain()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // newEntry judges names itself
			return nil, archiveError(index, err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := newEntry(header, index)
		if err == nil && e != nil {
			err = m.keep(c, e, archive, upper)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %q: %w", header.Name, err)
		}
	}
}

// keep records an entry, and stores its content where it has one.
func (m *merge) keep(c *changes, e *entry, content io.Reader, upper *cover) error {
	nodes, err := c.record(e)
	if err != nil {
		return err
	}
	if err := m.charge(e.bytes() + nodes*changeBytes); err != nil {
		return err
	}
	if e.size == 0 {
		return nil
	}
	if upper.hides(e.name) {
		c.skipped = append(c.skipped, e)
		return nil
	}
	return m.storeContent(e, content)
}

func (m *merge) storeContent(e *entry, content io.Reader) error {
	r := &sourceReader{r: content}
	write := m.store.WriteData
	if plain, ok := m.store.(plainStore); ok && readAtEachStart(e.name, e.size) {
		write = plain.WritePlain
	}
	data, err := write(r, e.size)
	if r.err != nil {
		return r.err // the cause, whatever the store made of it
	}
	if err != nil {
		return fmt.Errorf("store content: %w", err)
	}
	e.node.Data = data
	return nil
}

// sourceReader remembers its source's failure.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// storeMissing stores contents that were skipped as hidden but are visible, by
// hard links or because the path to them leads elsewhere than it seemed. It
// reads their layers again.
func (m *merge) storeMissing(ctx context.Context, root *squashfs.Node, all []*changes) error {
	skipped := map[*squashfs.Node]bool{}
	for _, c := range all {
		for _, e := range c.skipped {
			skipped[e.node] = true
		}
	}
	if len(skipped) == 0 {
		return nil
	}
	visible := map[*squashfs.Node]bool{}
	findVisible(root, skipped, visible)
	for i := len(all) - 1; i >= 0; i-- {
		var missing []*entry
		for _, e := range all[i].skipped {
			if visible[e.node] {
				missing = append(missing, e)
			}
		}
		if len(missing) == 0 {
			continue
		}
		if err := m.readAgain(ctx, all[i].layer, missing); err != nil {
			return fmt.Errorf("read layer %v again: %w", all[i].layer, err)
		}
	}
	return nil
}

func findVisible(dir *squashfs.Node, skipped, visible map[*squashfs.Node]bool) {
	for _, n := range dir.Children {
		if n.Children != nil {
			findVisible(n, skipped, visible)
		} else if skipped[n] {
			visible[n] = true
		}
	}
}

// readAgain stores the contents of missing, which are in the archive's order.
func (m *merge) readAgain(ctx context.Context, l Layer, missing []*entry) error {
	ahead := readAhead(ctx, []Layer{l}, Options{})
	defer ahead.stop()
	s := ahead.next()
	archive := tar.NewReader(s)
	for index := 0; len(missing) > 0; index++ {
		header, err := archive.Next()
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return archiveError(index, err)
		}
		if index < missing[0].index {
			continue
		}
		if header.Size != missing[0].size {
			return errors.New("layer has changed since it was read")
		}
		if err := m.storeContent(missing[0], archive); err != nil {
			return fmt.Errorf("entry %q: %w", header.Name, err)
		}
		missing = missing[1:]
	}
	return s.drain() // so that the digest is verified
}

// archiveError tells where an archive broke.
func archiveError(index int, err error) error {
	return fmt.Errorf("archive after %d entries: %w", index, noEOF(err))
}
