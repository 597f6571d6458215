package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/coracle-runtime/coracle/image/squashfs/inflate"
)

// store is where an image's files lie under the names that its format gives
// them: a directory, or a tar archive.
type store interface {
	// open returns a file's content and its size in bytes. Many may be open at
	// once.
	open(name string) (io.ReadCloser, int64, error)
	io.Closer
}

var (
	_ store = (*archive)(nil)
	_ store = directory{}
)

// directory is a store in a directory, which nothing leaves.
type directory struct{ *os.Root }

func openDirectory(path string) (directory, error) {
	root, err := os.OpenRoot(path)
	return directory{root}, err
}

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// maxMembers bounds an archive's members. Those of images have a few for each
// layer.
const maxMembers = 1 << 20

// archive is a store in a tar archive. The archive is read in place: members
// stand in it in any order, and layers are wanted from the top one down.
type archive struct {
	path    string
	file    *os.File
	members map[string]member
}

type member struct {
	offset, size int64
	link         string // the member that this one stands for, or ""
}

// openArchive lists an archive's members. One that is compressed is
// decompressed first, into a file without a name.
func openArchive(ctx context.Context, path string, o *PullOptions) (*archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err == nil {
		f, err = decompressed(ctx, f, st.Size(), o)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	a := &archive{path: path, file: f, members: map[string]member{}}
	if err := a.index(); err != nil {
		f.Close()
		return nil, fmt.Errorf("read archive %s: %w", path, err)
	}
	return a, nil
}

// index walks the headers; the tar reader seeks over what lies between them.
func (a *archive) index() error {
	st, err := a.file.Stat()
	if err != nil {
		return err
	}
	section := io.NewSectionReader(a.file, 0, st.Size())
	r := tar.NewReader(section)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(a.members) >= maxMembers {
			return fmt.Errorf("more than %d members", maxMembers)
		}
		name := path.Clean("/" + h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			offset, err := section.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if h.Size > st.Size()-offset {
				return fmt.Errorf("%s: %w", h.Name, io.ErrUnexpectedEOF)
			}
			a.members[name] = member{offset: offset, size: h.Size}
		case tar.TypeSymlink: // a layer that is the same as another image's
			a.members[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			a.members[name] = member{link: path.Clean("/" + h.Linkname)}
		}
	}
}

func (a *archive) open(name string) (io.ReadCloser, int64, error) {
	at := path.Clean("/" + name)
	for range maxLinks {
		m, ok := a.members[at]
		if !ok {
			break
		}
		if m.link == "" {
			return io.NopCloser(io.NewSectionReader(a.file, m.offset, m.size)), m.size, nil
		}
		at = m.link
	}
	return nil, 0, &fs.PathError{Op: "open", Path: a.path + ":" + name, Err: fs.ErrNotExist}
}

// Close closes the archive.
func (a *archive) Close() error { return a.file.Close() }

// readSmall reads a file of at most maxJSON bytes.
func readSmall(s store, name string) ([]byte, error) {
	r, size, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > maxJSON {
		return nil, errTooLarge(name, size, maxJSON)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// decompressed returns f itself, or a file without a name that holds what f
// was compressed from; f is closed then, and always on errors.
func decompressed(ctx context.Context, f *os.File, size int64, o *PullOptions) (*os.File, error) {
	head := make([]byte, 6)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return f, err
	}
	open := decompressor(head[:n])
	if open == nil {
		return f, nil
	}
	defer f.Close()
	dir := o.tempDir()
	out, err := temporaryFile(dir)
	if err != nil {
		return f, fmt.Errorf("decompress %s: %w", f.Name(), err)
	}
	in := &countingReader{ctx: ctx, r: io.NewSectionReader(f, 0, size), total: size, phase: "read", o: o}
	r, err := open(bufio.NewReaderSize(in, 1<<20))
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{out}, r, make([]byte, 1<<20))
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		out.Close()
		return f, fmt.Errorf("decompress %s: %w", f.Name(), explainSpace(dir, err))
	}
	return out, nil
}

// decompressor returns what reads a stream with this beginning, or nil where
// it is not compressed in a way that is known.
func decompressor(head []byte) func(io.Reader) (io.ReadCloser, error) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(inflate.NewReader(r)), nil }
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return func(r io.Reader) (io.ReadCloser, error) {
			z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(128<<20))
			if err != nil {
				return nil, err
			}
			return z.IOReadCloser(), nil
		}
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return func(io.Reader) (io.ReadCloser, error) {
			return nil, errors.New("archives compressed with bzip2 or xz are not read; use gzip or zstd")
		}
	}
	return nil
}

// countingReader reports progress and stops when the context ends.
type countingReader struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	phase       string
	o           *PullOptions
}

func (c *countingReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.done += int64(n)
	c.o.progress(Event{c.phase, c.done, c.total})
	return n, err
}

func isHex(s string) bool { return s != "" && strings.Trim(s, "0123456789abcdef") == "" }
