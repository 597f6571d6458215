package layer

import (
	"io"
	"path"
	"strings"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// plainStore is a Store that can leave contents uncompressed.
type plainStore interface {
	Store
	WritePlain(r io.Reader, size int64) (*squashfs.Data, error)
}

var _ plainStore = (*squashfs.Writer)(nil)

// startLimit bounds what a file may cost in the image, in bytes. A C library
// has 2 MB.
const startLimit = 4 << 20

// readAtEachStart tells the files that nearly every program of an image reads
// before its main function: the dynamic linker and the C library. To decode them
// took half of what our FUSE server does for a short command; uncompressed they
// make an image about 1 MB larger.
func readAtEachStart(name string, size int64) bool {
	if size > startLimit {
		return false
	}
	base := path.Base(name)
	switch {
	case strings.HasPrefix(base, "ld-linux"), strings.HasPrefix(base, "ld-musl-"), // the library, too
		strings.HasPrefix(base, "ld-2."), strings.HasPrefix(base, "ld64.so"):
		return true
	case base == "libc.so.6", strings.HasPrefix(base, "libc-2."), strings.HasPrefix(base, "libc.musl-"):
		return true
	}
	return false
}
