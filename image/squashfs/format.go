package squashfs

import "fmt"

// Constants of the on-disk format 4.0, as in the kernel's fs/squashfs/squashfs_fs.h.
const (
	magic          = 0x73717368 // "hsqs"
	superblockSize = 96

	metadataSize         = 8192    // bytes of a metadata block, uncompressed
	metadataUncompressed = 1 << 15 // flag in a metadata block's length
	dataUncompressed     = 1 << 24 // flag in a data block's length

	minBlockSize     = 4 << 10
	maxBlockSize     = 1 << 20
	defaultBlockSize = 128 << 10

	noFragment = 0xffffffff
	noXattr    = 0xffffffff
	noTable    = 0xffffffffffffffff // an absent export, xattr or fragment table

	maxNameLen      = 256 // bytes of a directory entry's name
	maxDirRun       = 256 // entries behind one directory header
	maxSymlinkLen   = 65535
	xattrIDSize     = 16
	xattrOutOfLine  = 0x100
	xattrPrefixMask = 0xff
)

// Inode types of the format. The extended ones follow the basic ones at a
// distance of seven.
const (
	inodeDir = iota + 1
	inodeFile
	inodeSymlink
	inodeBlockDev
	inodeCharDev
	inodeFifo
	inodeSocket
	inodeExtDir
	inodeExtFile
	inodeExtSymlink
	inodeExtBlockDev
	inodeExtCharDev
	inodeExtFifo
	inodeExtSocket
)

// Superblock flags.
const (
	flagUncompressedInodes    = 1 << 0
	flagUncompressedData      = 1 << 1
	flagUncompressedFragments = 1 << 3
	flagNoFragments           = 1 << 4
	flagAlwaysFragments       = 1 << 5
	flagDuplicates            = 1 << 6
	flagExportable            = 1 << 7
	flagUncompressedXattrs    = 1 << 8
	flagNoXattrs              = 1 << 9
	flagCompressorOptions     = 1 << 10
	flagUncompressedIDs       = 1 << 11
)

// Prefixes of extended attribute names, by the number stored on disk.
var xattrPrefixes = [...]string{"user.", "trusted.", "security."}

// Compression is a compressor's number in the superblock.
type Compression uint16

// The compressors that the format knows.
const (
	Gzip Compression = iota + 1
	LZMA
	LZO
	XZ
	LZ4
	Zstd
)

func (c Compression) String() string {
	names := [...]string{"none", "gzip", "lzma", "lzo", "xz", "lz4", "zstd"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("compression(%d)", uint16(c))
}

// superblock is the image's first 96 bytes, little endian.
type superblock struct {
	Magic          uint32
	Inodes         uint32
	ModTime        uint32 // seconds since the epoch
	BlockSize      uint32 // bytes
	Fragments      uint32
	Compression    Compression
	BlockLog       uint16
	Flags          uint16
	IDs            uint16
	Major, Minor   uint16
	RootInode      uint64 // an inode reference
	BytesUsed      uint64
	IDTable        uint64 // offsets in the image, as those that follow
	XattrTable     uint64
	InodeTable     uint64
	DirectoryTable uint64
	FragmentTable  uint64
	ExportTable    uint64
}

// Xattr is one extended attribute: its full name ("user.mime_type") and value.
type Xattr struct {
	Name  string
	Value []byte
}
