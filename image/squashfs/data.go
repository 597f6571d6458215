package squashfs

// Data is the stored content of one regular file, as Writer.WriteData returns
// it. Files of the same content share one Data, and a Data may stand in any
// number of nodes. It belongs to the Writer that made it.
type Data struct {
	writer *Writer
	size   int64  // bytes
	sparse uint64 // bytes of zero blocks, which are not stored
	plain  bool   // blocks are stored uncompressed

	// For finding duplicates.
	sums []uint64 // of the blocks, or of the content of a small file
	next *Data    // another content of the same writeKey
	seq  uint64   // number of the last block handed to the pipe

	// Where the blocks lie. Set by the pipe, valid once it has passed seq.
	start  int64    // offset in the image of the first stored block
	blocks []uint32 // stored sizes, as in the inode; zero or missing is a zero block

	// The place of a small file; fragment is noFragment for others.
	fragment       uint32
	fragmentOffset uint32 // bytes in the fragment block, uncompressed
}

// Size is the length of the content in bytes.
func (d *Data) Size() int64 { return d.size }

// blockCount is the number of blocks that d's inode lists.
func (d *Data) blockCount(blockSize int) int64 {
	if d.fragment != noFragment {
		return d.size / int64(blockSize)
	}
	return (d.size + int64(blockSize) - 1) / int64(blockSize)
}
