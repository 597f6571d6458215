package squashfs

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"golang.org/x/sys/unix"
)

// Ref is an inode's place on disk: the offset of its metadata block in the
// inode table, shifted left by 16 bits, and its offset in the decoded block.
// It names the inode as long as the image lives.
type Ref uint64

// Inode is a file of any type. It does not change; one Inode may be used by
// several goroutines.
type Inode struct {
	Ref      Ref
	Number   uint32 // from 1 to Info.Inodes
	Mode     uint32 // st_mode: file type and permission bits
	UID, GID uint32
	ModTime  uint32 // seconds since the epoch
	Nlink    uint32
	Size     uint64 // bytes of a file's content or of a symbolic link's target; of a directory's listing, as stored
	Rdev     uint64 // of a device, as unix.Mkdev makes it

	xattr uint32 // index in the xattr id table, or noXattr
	tail  inodeTail

	// Of a regular file.
	blocksStart uint64 // image offset of the first block
	blockCount  uint64
	fragment    uint32 // index in the fragment table, or noFragment
	fragmentOff uint32
	sparse      uint64      // bytes of holes, of extended inodes
	index       *blockIndex // of a file with many blocks

	// Of a directory.
	listing Ref // into the directory table
	parent  uint32
	indexes uint16 // number of directory index entries
}

// inodeTail is where an inode's variable part lies: block sizes, the target
// of a symbolic link, or a directory index.
type inodeTail struct {
	pos uint64
	off int
}

// IsDir reports whether the inode is a directory.
func (in *Inode) IsDir() bool { return in.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular reports whether the inode is a regular file.
func (in *Inode) IsRegular() bool { return in.Mode&unix.S_IFMT == unix.S_IFREG }

// IsSymlink reports whether the inode is a symbolic link.
func (in *Inode) IsSymlink() bool { return in.Mode&unix.S_IFMT == unix.S_IFLNK }

// Blocks returns what st_blocks should tell: 512-byte units of content that
// are not holes, before compression, as the kernel counts.
func (in *Inode) Blocks() uint64 {
	if !in.IsRegular() {
		return 0
	}
	return (in.Size - min(in.sparse, in.Size) + 511) / 512
}

// HasXattrs reports whether the inode has extended attributes.
func (in *Inode) HasXattrs() bool { return in.xattr != noXattr }

// Inode returns the inode at a reference.
func (r *Reader) Inode(ref Ref) (*Inode, error) {
	if in := r.inodes.get(ref); in != nil {
		return in, nil
	}
	c, err := r.openRef(ref, r.sb.InodeTable, r.inodeEnd)
	if err != nil {
		return nil, fmt.Errorf("read inode %#x: %w", uint64(ref), err)
	}
	defer c.close()
	in := &Inode{Ref: ref, Nlink: 1, xattr: noXattr}
	if err := r.parseInode(in, &c); err != nil {
		return nil, fmt.Errorf("read inode %#x: %w", uint64(ref), err)
	}
	in.tail.pos, in.tail.off = c.position()
	r.inodes.put(in)
	return in, nil
}

// parseInode reads an inode up to its variable part.
func (r *Reader) parseInode(in *Inode, c *metadataCursor) error {
	p, err := c.take(16)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	kind := le.Uint16(p)
	in.Mode = uint32(le.Uint16(p[2:])) & 0o7777
	uid, gid := le.Uint16(p[4:]), le.Uint16(p[6:])
	in.ModTime = le.Uint32(p[8:])
	in.Number = le.Uint32(p[12:])
	if in.UID, err = r.id(uid); err != nil {
		return err
	}
	if in.GID, err = r.id(gid); err != nil {
		return err
	}
	if kind < inodeDir || kind > inodeExtSocket {
		return corrupt("inode type %d", kind)
	}
	in.Mode |= fileTypes[(kind-1)%7]
	switch kind {
	case inodeDir, inodeExtDir:
		return in.parseDir(c, kind == inodeExtDir)
	case inodeFile, inodeExtFile:
		return r.parseFile(in, c, kind == inodeExtFile)
	case inodeSymlink, inodeExtSymlink:
		return in.parseSymlink(c, kind == inodeExtSymlink)
	}
	return in.parseSpecial(c, kind)
}

// fileTypes are the S_IFMT bits of the basic inode types, from 1 on.
var fileTypes = [7]uint32{
	unix.S_IFDIR, unix.S_IFREG, unix.S_IFLNK, unix.S_IFBLK, unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK,
}

func (in *Inode) parseDir(c *metadataCursor, extended bool) error {
	le := binary.LittleEndian
	if !extended {
		p, err := c.take(16)
		if err != nil {
			return err
		}
		in.listing = Ref(le.Uint32(p))<<16 | Ref(le.Uint16(p[10:]))
		in.Nlink = le.Uint32(p[4:])
		in.Size = uint64(le.Uint16(p[8:]))
		in.parent = le.Uint32(p[12:])
		return nil
	}
	p, err := c.take(24)
	if err != nil {
		return err
	}
	in.Nlink = le.Uint32(p)
	in.Size = uint64(le.Uint32(p[4:]))
	in.listing = Ref(le.Uint32(p[8:]))<<16 | Ref(le.Uint16(p[18:]))
	in.parent = le.Uint32(p[12:])
	in.indexes = le.Uint16(p[16:])
	in.xattr = le.Uint32(p[20:])
	return nil
}

func (r *Reader) parseFile(in *Inode, c *metadataCursor, extended bool) error {
	le := binary.LittleEndian
	if !extended {
		p, err := c.take(16)
		if err != nil {
			return err
		}
		in.blocksStart = uint64(le.Uint32(p))
		in.fragment = le.Uint32(p[4:])
		in.fragmentOff = le.Uint32(p[8:])
		in.Size = uint64(le.Uint32(p[12:]))
	} else {
		p, err := c.take(40)
		if err != nil {
			return err
		}
		in.blocksStart = le.Uint64(p)
		in.Size = le.Uint64(p[8:])
		in.sparse = le.Uint64(p[16:])
		in.Nlink = le.Uint32(p[24:])
		in.fragment = le.Uint32(p[28:])
		in.fragmentOff = le.Uint32(p[32:])
		in.xattr = le.Uint32(p[36:])
	}
	return r.checkFile(in)
}

// checkFile bounds what a file claims before anybody computes with it.
func (r *Reader) checkFile(in *Inode) error {
	bs := uint64(r.sb.BlockSize)
	if in.Size > math.MaxInt64 {
		return corrupt("file of %d bytes", in.Size)
	}
	in.blockCount = in.Size / bs
	tail := in.Size % bs
	switch {
	case in.fragment == noFragment:
		if tail > 0 {
			in.blockCount++
		}
	case uint64(in.fragment) >= r.fragments.count:
		return corrupt("fragment %d of %d", in.fragment, r.fragments.count)
	case uint64(in.fragmentOff)+tail > bs:
		return corrupt("%d bytes at %d of a fragment block", tail, in.fragmentOff)
	}
	if in.blockCount > maxFileBlocks {
		return corrupt("file of %d blocks", in.blockCount)
	}
	if in.blockCount > 0 && in.blocksStart > r.sb.BytesUsed {
		return corrupt("file content at %d", in.blocksStart)
	}
	if in.blockCount > indexStep {
		in.index = &blockIndex{step: max(indexStep, in.blockCount/maxMarks+1)}
	}
	return nil
}

func (in *Inode) parseSymlink(c *metadataCursor, extended bool) error {
	p, err := c.take(8)
	if err != nil {
		return err
	}
	in.Nlink = binary.LittleEndian.Uint32(p)
	in.Size = uint64(binary.LittleEndian.Uint32(p[4:]))
	if in.Size == 0 || in.Size > maxSymlinkLen {
		return corrupt("symbolic link of %d bytes", in.Size)
	}
	if !extended {
		return nil
	}
	// The xattr index lies behind the target, which Readlink reads again.
	after, err := c.r.openMetadata(c.block.key.pos, c.end, c.off)
	if err != nil {
		return err
	}
	defer after.close()
	if err := after.skip(int(in.Size)); err != nil {
		return err
	}
	if p, err = after.take(4); err != nil {
		return err
	}
	in.xattr = binary.LittleEndian.Uint32(p)
	return nil
}

func (in *Inode) parseSpecial(c *metadataCursor, kind uint16) error {
	device, extended := false, kind > inodeSocket
	switch kind {
	case inodeBlockDev, inodeCharDev, inodeExtBlockDev, inodeExtCharDev:
		device = true
	}
	p, err := c.take(4)
	if err != nil {
		return err
	}
	in.Nlink = binary.LittleEndian.Uint32(p)
	if device {
		if p, err = c.take(4); err != nil {
			return err
		}
		in.Rdev = decodeDev(binary.LittleEndian.Uint32(p))
	}
	if extended {
		if p, err = c.take(4); err != nil {
			return err
		}
		in.xattr = binary.LittleEndian.Uint32(p)
	}
	return nil
}

// decodeDev reads a device number as the kernel's new_decode_dev does.
func decodeDev(dev uint32) uint64 {
	return unix.Mkdev(dev&0xfff00>>8, dev&0xff|dev>>12&0xfff00)
}

// Readlink returns the target of a symbolic link.
func (r *Reader) Readlink(in *Inode) (string, error) {
	if !in.IsSymlink() {
		return "", fmt.Errorf("read link %#x: %w", uint64(in.Ref), unix.EINVAL)
	}
	c, err := r.openMetadata(in.tail.pos, r.inodeEnd, in.tail.off)
	if err != nil {
		return "", fmt.Errorf("read link %#x: %w", uint64(in.Ref), err)
	}
	defer c.close()
	target := make([]byte, in.Size)
	if err := c.read(target); err != nil {
		return "", fmt.Errorf("read link %#x: %w", uint64(in.Ref), err)
	}
	for _, b := range target {
		if b == 0 {
			return "", fmt.Errorf("read link %#x: %w", uint64(in.Ref), corrupt("a zero byte"))
		}
	}
	return string(target), nil
}

// inodeCacheSize is how many inodes each of the cache's generations holds,
// about 150 bytes each.
const inodeCacheSize = 8192

// inodeCache keeps the inodes of late. When the young generation is full it
// becomes the old one, and what was old and unused is gone: no list to keep,
// no work on a hit in the common case.
type inodeCache struct {
	mu         sync.RWMutex
	young, old map[Ref]*Inode
}

func (c *inodeCache) get(ref Ref) *Inode {
	c.mu.RLock()
	in := c.young[ref]
	old := in == nil
	if old {
		in = c.old[ref]
	}
	c.mu.RUnlock()
	if in != nil && old {
		c.put(in)
	}
	return in
}

func (c *inodeCache) put(in *Inode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.young == nil || len(c.young) >= inodeCacheSize {
		c.young, c.old = make(map[Ref]*Inode), c.young
	}
	c.young[in.Ref] = in
}
