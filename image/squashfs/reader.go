package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"
)

// ErrCorrupt is wrapped by every error that an image's own bytes cause.
var ErrCorrupt = errors.New("squashfs image is corrupt")

// Bounds that no on-disk number of the format implies, set far above what
// real images hold and low enough that a hostile one cannot make us allocate.
const (
	maxTableBlocks = 1 << 17 // metadata blocks of one lookup table: 1 MiB of index, 67 million fragments
	maxFileBlocks  = 1 << 26 // blocks of one file: 8 TiB at 128 KiB
	maxXattrBytes  = 4 << 20 // names and values of one inode, together
)

const defaultCacheBytes = 16 << 20

// ReaderOptions tunes a Reader. The zero value works.
type ReaderOptions struct {
	// CacheBytes is the budget of decoded blocks kept in memory, in bytes;
	// zero means 16 MiB. Blocks in use by a running call come on top.
	CacheBytes int64
	// ReadAhead lets other cores decode the blocks that a sequential reader
	// will ask for next.
	ReadAhead bool
}

// Reader gives random access to a SquashFS 4.0 image. Its methods may be
// called from several goroutines at once.
type Reader struct {
	src  io.ReaderAt
	sb   superblock
	comp decompressor

	inodeEnd     uint64 // image offsets where the inode and directory tables end
	directoryEnd uint64
	ids          []uint32
	fragments    lookupTable
	exports      lookupTable
	xattrIDs     lookupTable
	xattrStart   uint64 // image offset of the names and values

	meta    *blockCache // metadata blocks
	data    *blockCache // fragment blocks, and data blocks that were asked for in part
	inodes  inodeCache
	scratch sync.Pool  // *[]byte that hold one stored block
	ahead   *readAhead // nil without ReaderOptions.ReadAhead
}

// Info describes an image.
type Info struct {
	Compression Compression
	BlockSize   int    // bytes of a data block, a power of two from 4 KiB to 1 MiB
	Inodes      uint32 // number of inodes
	Fragments   uint32 // number of fragment blocks
	IDs         int    // number of distinct user and group ids
	ModTime     time.Time
	Flags       uint16 // as in the superblock
	BytesUsed   int64  // bytes of the image without the padding behind it
	Exportable  bool   // has the table that Reader.Exported needs
	Xattrs      bool   // has a table of extended attributes
}

// NewReader opens the image in the first size bytes of src. It checks the
// superblock and the lookup tables; whatever lies behind them is checked when
// it is read. An image that is not SquashFS 4.0, is cut short or contradicts
// itself gives an error that wraps ErrCorrupt; a compressor that we do not
// have gives an *UnsupportedError.
func NewReader(src io.ReaderAt, size int64, o ReaderOptions) (*Reader, error) {
	r := &Reader{src: src}
	if err := r.readSuperblock(size); err != nil {
		return nil, err
	}
	if err := r.comp.init(r.sb.Compression, int(r.sb.BlockSize)); err != nil {
		return nil, err
	}
	budget := o.CacheBytes
	if budget <= 0 {
		budget = defaultCacheBytes
	}
	r.meta = newBlockCache(max(budget/4, 8*metadataSize), r.loadMetadata)
	r.data = newBlockCache(max(budget-budget/4, 2*int64(r.sb.BlockSize)), r.loadData)
	r.scratch.New = func() any {
		b := make([]byte, max(int(r.sb.BlockSize), metadataSize+2))
		return &b
	}
	if err := r.readTables(); err != nil {
		return nil, err
	}
	if cores := runtime.GOMAXPROCS(0); o.ReadAhead && cores > 1 {
		r.ahead = newReadAhead(r, cores)
	}
	return r, nil
}

// Info returns what the superblock tells.
func (r *Reader) Info() Info {
	return Info{
		Compression: r.sb.Compression,
		BlockSize:   int(r.sb.BlockSize),
		Inodes:      r.sb.Inodes,
		Fragments:   r.sb.Fragments,
		IDs:         int(r.sb.IDs),
		ModTime:     time.Unix(int64(r.sb.ModTime), 0),
		Flags:       r.sb.Flags,
		BytesUsed:   int64(r.sb.BytesUsed),
		Exportable:  r.exports.count > 0,
		Xattrs:      r.xattrIDs.count > 0,
	}
}

// Root returns the reference of the root directory.
func (r *Reader) Root() Ref { return Ref(r.sb.RootInode) }

// corrupt makes an error that wraps ErrCorrupt.
func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrCorrupt)...)
}

func (r *Reader) readSuperblock(size int64) error {
	var raw [superblockSize]byte
	if size < superblockSize {
		return corrupt("read superblock: %d bytes are too few", size)
	}
	r.sb.BytesUsed = superblockSize // lets readFull reach it
	if err := r.readFull(raw[:], 0); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	r.sb = parseSuperblock(&raw)
	if err := r.sb.check(size); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	return nil
}

func parseSuperblock(raw *[superblockSize]byte) superblock {
	le := binary.LittleEndian
	return superblock{
		Magic:          le.Uint32(raw[0:]),
		Inodes:         le.Uint32(raw[4:]),
		ModTime:        le.Uint32(raw[8:]),
		BlockSize:      le.Uint32(raw[12:]),
		Fragments:      le.Uint32(raw[16:]),
		Compression:    Compression(le.Uint16(raw[20:])),
		BlockLog:       le.Uint16(raw[22:]),
		Flags:          le.Uint16(raw[24:]),
		IDs:            le.Uint16(raw[26:]),
		Major:          le.Uint16(raw[28:]),
		Minor:          le.Uint16(raw[30:]),
		RootInode:      le.Uint64(raw[32:]),
		BytesUsed:      le.Uint64(raw[40:]),
		IDTable:        le.Uint64(raw[48:]),
		XattrTable:     le.Uint64(raw[56:]),
		InodeTable:     le.Uint64(raw[64:]),
		DirectoryTable: le.Uint64(raw[72:]),
		FragmentTable:  le.Uint64(raw[80:]),
		ExportTable:    le.Uint64(raw[88:]),
	}
}

// check compares the numbers with each other and with the image's size, as
// the kernel's squashfs_fill_super does.
func (sb *superblock) check(size int64) error {
	switch {
	case sb.Magic != magic:
		return corrupt("magic number %#x", sb.Magic)
	case sb.Major != 4 || sb.Minor != 0:
		return corrupt("version %d.%d, want 4.0", sb.Major, sb.Minor)
	case sb.BlockSize < minBlockSize || sb.BlockSize > maxBlockSize || sb.BlockSize&(sb.BlockSize-1) != 0:
		return corrupt("block size %d", sb.BlockSize)
	case sb.BlockLog > 20 || 1<<sb.BlockLog != sb.BlockSize:
		return corrupt("block size %d with logarithm %d", sb.BlockSize, sb.BlockLog)
	case sb.BytesUsed < superblockSize || sb.BytesUsed > uint64(size):
		return corrupt("%d bytes used of %d", sb.BytesUsed, size)
	case sb.IDs == 0:
		return corrupt("no ids")
	case sb.InodeTable < superblockSize || sb.InodeTable >= sb.DirectoryTable:
		return corrupt("inode table at %d, directory table at %d", sb.InodeTable, sb.DirectoryTable)
	case sb.DirectoryTable >= sb.BytesUsed:
		return corrupt("directory table at %d of %d", sb.DirectoryTable, sb.BytesUsed)
	}
	for _, t := range []struct {
		name string
		pos  uint64
		need bool
	}{
		{"id", sb.IDTable, true},
		{"xattr", sb.XattrTable, false},
		{"fragment", sb.FragmentTable, sb.Fragments > 0},
		{"export", sb.ExportTable, false},
	} {
		absent := t.pos == noTable && !t.need
		if !absent && (t.pos < sb.DirectoryTable || t.pos >= sb.BytesUsed) {
			return corrupt("%s table at %d of %d", t.name, t.pos, sb.BytesUsed)
		}
	}
	return nil
}

// readFull fills p from the image's offset off.
func (r *Reader) readFull(p []byte, off uint64) error {
	if off > r.sb.BytesUsed || uint64(len(p)) > r.sb.BytesUsed-off {
		return corrupt("read %d bytes at %d: the image ends at %d", len(p), off, r.sb.BytesUsed)
	}
	n, err := r.src.ReadAt(p, int64(off))
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return corrupt("read %d bytes at %d: the image ends at %d", len(p), off, off+uint64(n))
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}
