package layer

import (
	"bytes"
	"errors"
	"io"
	"os"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

const (
	copySize = 1 << 20 // bytes read from the image at once: some of its blocks
	holeSize = 4 << 10 // bytes of zeros that make a hole: a page
)

// work writes files until there are no more. Runs in several goroutines.
func (x *extraction) work() {
	buffer := make([]byte, copySize)
	for job := range x.jobs {
		if x.ctx.Err() == nil {
			x.fail(x.writeFile(job, buffer))
		}
		job.dir.done()
	}
}

func (x *extraction) writeFile(job fileJob, buffer []byte) error {
	fd, err := unix.Openat(job.dir.fd(), job.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: job.dir.f.Name() + "/" + job.name, Err: err}
	}
	f := os.NewFile(uintptr(fd), job.dir.f.Name()+"/"+job.name)
	err = x.copyContent(f, job.in, buffer)
	if err == nil {
		err = x.complete(f, job.in)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return &os.PathError{Op: "write", Path: f.Name(), Err: err}
	}
	return nil
}

// copyContent writes a file's content, and leaves holes where it is zero.
func (x *extraction) copyContent(f *os.File, in *squashfs.Inode, buffer []byte) error {
	size := int64(in.Size)
	holes := false
	for off := int64(0); off < size; {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		n, err := x.r.ReadAt(in, buffer[:min(copySize, size-off)], off)
		if n == 0 {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err != nil && err != io.EOF {
			return err
		}
		hole, err := writeSparse(f, buffer[:n], off)
		if err != nil {
			return err
		}
		holes = holes || hole
		off += int64(n)
		if x.options.Progress != nil {
			x.options.Progress(int64(n))
		}
	}
	if holes { // one may be at the end
		return f.Truncate(size)
	}
	return nil
}

// writeSparse writes p at an offset that is a multiple of holeSize, without
// its pages of zeros.
func writeSparse(f *os.File, p []byte, off int64) (holes bool, err error) {
	zero := make([]byte, holeSize)
	start := 0 // of what is to be written
	for at := 0; at < len(p); at += holeSize {
		page := p[at:min(at+holeSize, len(p))]
		if page[0] != 0 || !bytes.Equal(page, zero[:len(page)]) {
			continue
		}
		holes = true
		if at > start {
			if _, err := f.WriteAt(p[start:at], off+int64(start)); err != nil {
				return holes, err
			}
		}
		start = at + len(page)
	}
	if start < len(p) {
		_, err = f.WriteAt(p[start:], off+int64(start))
	}
	return holes, err
}
