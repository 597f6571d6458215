package layer

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

const (
	maxPath     = 4096    // bytes: PATH_MAX
	maxName     = 255     // bytes: NAME_MAX
	maxFileSize = 1 << 42 // bytes; a sparse file may claim any size
)

// The names of AUFS that the OCI image specification took over.
const (
	whiteoutPrefix = ".wh."
	metadataPrefix = ".wh..wh." // AUFS's own files, but for the opaque marker
	opaqueMarker   = ".wh..wh..opq"
)

// entry is one entry of an archive that says something about the tree.
type entry struct {
	name  string // clean and relative; "" is the root
	kind  kind
	index int // in its archive, from 0

	node *squashfs.Node // of a file; of a hard link when it is resolved
	size int64          // of a regular file's content, bytes

	target  string // of a hard link, like name
	same    *entry // the hard link's target, where that is an unresolved link too
	missing bool   // the hard link's target is not there until all else is
}

type kind uint8

const (
	kindFile     kind = iota // all but directories
	kindDir                  //
	kindLink                 // a hard link
	kindWhiteout             // name is what it removes
	kindOpaque               // name is the directory
)

// bytes estimates the memory that the entry takes.
func (e *entry) bytes() int {
	n := 256 + len(e.name) + len(e.target)
	if e.node != nil {
		n += len(e.node.Target)
		for _, x := range e.node.Xattrs {
			n += 64 + len(x.Name) + len(x.Value)
		}
	}
	return n
}

// newEntry makes an entry of an archive's header. It is nil where the header says
// nothing about the tree.
func newEntry(h *tar.Header, index int) (*entry, error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil, nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return nil, err
	}
	e := &entry{name: name, index: index}
	if marker, err := e.marker(); marker || err != nil {
		if e.kind == kindFile { // a file of AUFS's own
			e = nil
		}
		return e, err
	}
	if h.Typeflag == tar.TypeLink {
		e.kind = kindLink
		if e.target, err = cleanName(h.Linkname); err != nil {
			return nil, fmt.Errorf("hard link to %q: %w", h.Linkname, err)
		}
		if e.target == name { // GNU tar writes a file that is named twice so
			return nil, nil
		}
		return e, nil
	}
	if e.node, err = node(h); err != nil {
		return nil, err
	}
	if e.node.Mode&unix.S_IFMT == unix.S_IFDIR {
		e.kind = kindDir
	}
	if e.node.Mode&unix.S_IFMT == unix.S_IFREG {
		e.size = h.Size
	}
	e.node.Xattrs, err = xattrs(h)
	return e, err
}

// marker tells whether the entry's name is a mark of AUFS, and takes the mark
// from it.
func (e *entry) marker() (bool, error) {
	if !strings.Contains(e.name, whiteoutPrefix) {
		return false, nil
	}
	dir, base := split(e.name)
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, metadataPrefix) {
			return true, nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return true, errors.New("is below a whiteout")
		}
	}
	switch {
	case base == opaqueMarker:
		e.kind, e.name = kindOpaque, dir
	case strings.HasPrefix(base, metadataPrefix):
		return true, nil
	case strings.HasPrefix(base, whiteoutPrefix):
		base = base[len(whiteoutPrefix):]
		if base == "" || base == "." || base == ".." {
			return true, errors.New("whiteout names no file")
		}
		e.kind, e.name = kindWhiteout, join(dir, base)
	default:
		return false, nil
	}
	return true, nil
}

// cleanName makes an archive's name relative, without empty and "." parts.
func cleanName(name string) (string, error) {
	if len(name) > maxPath {
		return "", fmt.Errorf("name has %d bytes, more than %d", len(name), maxPath)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", errors.New("name holds a NUL byte")
	}
	clean := true
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "..":
			return "", errors.New(`name holds ".."`)
		case part == "" || part == ".":
			clean = false
		case len(part) > maxName:
			return "", fmt.Errorf("part of the name has %d bytes, more than %d", len(part), maxName)
		}
	}
	if clean {
		return name, nil
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/"), nil
}

func split(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)], name[i+1:]
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// node makes a file of a header that is not a hard link.
func node(h *tar.Header) (*squashfs.Node, error) {
	n := &squashfs.Node{Mode: uint32(h.Mode & 0o7777), ModTime: h.ModTime.Unix()}
	if h.Uid < 0 || h.Uid > math.MaxUint32 || h.Gid < 0 || h.Gid > math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d is out of range", h.Uid, h.Gid)
	}
	n.UID, n.GID = uint32(h.Uid), uint32(h.Gid)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse: // archive/tar turns the old TypeRegA into TypeReg
		n.Mode |= unix.S_IFREG
		if h.Size < 0 || h.Size > maxFileSize {
			return nil, fmt.Errorf("size of %d bytes", h.Size)
		}
	case tar.TypeDir:
		n.Mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		n.Mode = unix.S_IFLNK | 0o777 // whatever the archive says, as on every Linux filesystem
		n.Target = h.Linkname
		if n.Target == "" || len(n.Target) >= maxPath || strings.IndexByte(n.Target, 0) >= 0 {
			return nil, fmt.Errorf("symbolic link of %d bytes", len(n.Target))
		}
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= unix.S_IFCHR
		if h.Typeflag == tar.TypeBlock {
			n.Mode = n.Mode&^unix.S_IFMT | unix.S_IFBLK
		}
		// The kernel's dev_t has 12 and 20 bits, squashfs as well.
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, fmt.Errorf("device %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		n.Rdev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeFifo:
		n.Mode |= unix.S_IFIFO
	default:
		return nil, fmt.Errorf("type %q is unknown", h.Typeflag)
	}
	return n, nil
}

// xattrs returns a header's extended attributes, sorted by name.
func xattrs(h *tar.Header) ([]squashfs.Xattr, error) {
	var list []squashfs.Xattr
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			// libarchive's own way: bsdtar writes both. The other is preferred, as
			// it needs no decoding.
			if name, ok = strings.CutPrefix(key, "LIBARCHIVE.xattr."); !ok {
				continue
			}
			var err error
			if name, err = url.PathUnescape(name); err != nil {
				return nil, fmt.Errorf("extended attribute %q: %w", key, err)
			}
			if _, twice := h.PAXRecords["SCHILY.xattr."+name]; twice {
				continue
			}
			raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return nil, fmt.Errorf("extended attribute %q: %w", key, err)
			}
			value = string(raw)
		}
		list = append(list, squashfs.Xattr{Name: name, Value: []byte(value)})
	}
	slices.SortFunc(list, func(a, b squashfs.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}
