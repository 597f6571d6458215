package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/sif"
	"github.com/coracle-runtime/coracle/image/squashfs"
)

// Format is a kind of image.
type Format int

// The formats that Open detects, in its order.
const (
	Sandbox  Format = iota + 1 // a directory
	SIF                        // with a root file system as its primary partition
	OCISIF                     // a SIF that holds an OCI image
	Squashfs                   // bare, or after a launch line
	Ext3                       // bare, or after a launch line
)

func (f Format) String() string {
	names := [...]string{"unknown", "sandbox", "sif", "oci-sif", "squashfs", "ext3"}
	if f < 0 || int(f) >= len(names) {
		f = 0
	}
	return names[f]
}

// headSize is what Open reads of a file: header and table of a native SIF.
const headSize = 32 << 10

// Image is an opened image. Its methods may be called from many goroutines.
type Image struct {
	Path   string // absolute
	Format Format
	Arch   string // GOARCH name; "" where the format does not tell
	// Offset and Size are the root file system's place in the file, in bytes;
	// zero for a sandbox and an OCI-SIF.
	Offset, Size int64
	// FS is the file system there: SIF partitions may hold either.
	FS sif.FSType
	// SIF describes the file where it is one.
	SIF *sif.File

	file     *os.File
	squashfs func() (*squashfs.Reader, error)
}

// OpenOptions changes what Open takes.
type OpenOptions struct {
	AnyArch   bool   // take images that cannot run here
	BinfmtDir string // instead of /proc/sys/fs/binfmt_misc
}

// NotImageError is a file of a kind that is no image.
type NotImageError struct{ Path string }

func (e NotImageError) Error() string { return "image format not recognized" }

// Hint says what is recognized.
func (e NotImageError) Hint() string {
	return "images are SIF, squashfs and ext3 files and directories; the source of an image is a URI: " + supportedSchemes
}

// Open finds out what the file or directory at path is and reads its
// description. It refuses an image that cannot run on this host.
func Open(path string) (*Image, error) { return OpenWith(path, OpenOptions{}) }

// OpenWith is Open with a choice.
func OpenWith(path string, o OpenOptions) (*Image, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("could not open image %s: %w", path, err)
	}
	img, err := open(absolute, o)
	if err != nil {
		return nil, fmt.Errorf("could not open image %s: %w", absolute, err)
	}
	return img, nil
}

func open(path string, o OpenOptions) (_ *Image, err error) {
	// O_NONBLOCK: a FIFO of that name must not stop us.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, missing(path, err)
	}
	img := &Image{Path: path, file: f}
	img.squashfs = sync.OnceValues(img.openSquashfs)
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		img.Format = Sandbox
		return img, nil
	case !st.Mode().IsRegular():
		return nil, NotImageError{path}
	}
	if err := img.detect(st.Size()); err != nil {
		return nil, err
	}
	if o.AnyArch {
		return img, nil
	}
	return img, checkArch(img.Arch, o.BinfmtDir)
}

// missing drops the path that the caller's sentence has already, and guesses
// at a forgotten scheme.
func missing(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	if errors.Is(err, fs.ErrNotExist) && strings.Contains(filepath.Base(path), ":") {
		return forgottenSchemeError{filepath.Base(path), err}
	}
	return err
}

// forgottenSchemeError is a missing file whose name looks like a registry's.
type forgottenSchemeError struct {
	name  string
	cause error
}

func (e forgottenSchemeError) Error() string { return e.cause.Error() }
func (e forgottenSchemeError) Unwrap() error { return e.cause }
func (e forgottenSchemeError) Hint() string {
	return "if it is in a registry, write docker://" + e.name
}

// detect looks at the head of a file.
func (img *Image) detect(size int64) error {
	head := make([]byte, min(size, headSize))
	if n, err := img.file.ReadAt(head, 0); n < len(head) {
		return fmt.Errorf("read header: %w", err)
	}
	if sif.IsSIF(head) {
		return img.detectSIF(&headReader{head, img.file}, size)
	}
	img.Offset = launchLine(head)
	img.Size = size - img.Offset
	head = head[img.Offset:]
	switch {
	case len(head) >= 4 && string(head[:4]) == "hsqs":
		img.Format, img.FS = Squashfs, sif.FSSquashfs
	case len(head) >= 1082 && binary.LittleEndian.Uint16(head[1080:]) == 0xef53: // s_magic of ext2 to ext4
		img.Format, img.FS = Ext3, sif.FSExt3
	default:
		return NotImageError{img.Path}
	}
	return nil
}

func (img *Image) detectSIF(r io.ReaderAt, size int64) error {
	f, err := sif.Read(r, size)
	if err != nil {
		return err
	}
	img.SIF, img.Format = f, SIF
	if f.Arch != sif.UnknownArch {
		img.Arch = f.Arch
	}
	if f.IsOCI() {
		img.Format = OCISIF
		return nil
	}
	d, p, err := f.Primary()
	if err != nil {
		return err
	}
	img.Offset, img.Size, img.FS = d.Offset, d.Size, p.FS
	return nil
}

// launchLine returns the length of a first line that runs the image by
// run-singularity, which may stand before squashfs and ext3.
func launchLine(head []byte) int64 {
	if !bytes.HasPrefix(head, []byte("#!")) {
		return 0
	}
	const longest = 2048
	end := bytes.IndexByte(head[:min(len(head), longest)], '\n')
	if end < 0 || !bytes.HasSuffix(head[:end], []byte(" run-singularity")) {
		return 0
	}
	return int64(end) + 1
}

// headReader serves what lies in the head, which was read already, from memory.
type headReader struct {
	head []byte
	file *os.File
}

func (r *headReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= 0 && off <= int64(len(r.head)) && len(p) <= len(r.head)-int(off) {
		return copy(p, r.head[off:]), nil
	}
	return r.file.ReadAt(p, off)
}

// Close releases the image. Roots and readers of it are of no use afterwards.
func (img *Image) Close() error { return img.file.Close() }

// File is the opened file or directory. It stays the image's.
func (img *Image) File() *os.File { return img.file }

// UnsupportedError is an image that was recognized and cannot be read.
type UnsupportedError struct{ What, Cure string }

func (e UnsupportedError) Error() string { return e.What }

// Hint says what to do instead.
func (e UnsupportedError) Hint() string { return e.Cure }

// Root returns the image's root file system, for reading single files.
func (img *Image) Root() (Root, error) {
	if img.Format == Sandbox {
		return sandboxRoot{img.file}, nil
	}
	r, err := img.Squashfs()
	if err != nil {
		return nil, err
	}
	return squashRoot{r}, nil
}

// Squashfs returns a reader of the image's root file system, the same one at
// every call.
func (img *Image) Squashfs() (*squashfs.Reader, error) { return img.squashfs() }

func (img *Image) openSquashfs() (*squashfs.Reader, error) {
	switch {
	case img.Format == Sandbox:
		return nil, fmt.Errorf("open root of %s: a sandbox is a directory", img.Path)
	case img.Format == OCISIF:
		return nil, fmt.Errorf("open root of %s: %w", img.Path, UnsupportedError{
			"OCI-SIF images do not run in native mode",
			"build a native SIF from the same source: coracle build NAME.sif docker://…"})
	case img.FS == sif.FSEncryptedSquashfs:
		return nil, fmt.Errorf("open root of %s: %w", img.Path, UnsupportedError{
			"the image is encrypted", "build it again without encryption"})
	case img.FS != sif.FSSquashfs:
		return nil, fmt.Errorf("open root of %s: %w", img.Path, UnsupportedError{
			fmt.Sprintf("its file system is %v, not squashfs", img.FS),
			"convert it on a host that can mount it, with singularity build --sandbox, and build a SIF from the directory"})
	}
	section := io.NewSectionReader(img.file, img.Offset, img.Size)
	r, err := squashfs.NewReader(section, img.Size, squashfs.ReaderOptions{})
	if err != nil {
		return nil, fmt.Errorf("open root of %s: %w", img.Path, err)
	}
	return r, nil
}
