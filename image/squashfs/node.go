package squashfs

// Node is a file of the tree that a Writer writes. One Node that stands under
// two names is a hard link; directories may stand under one name only.
type Node struct {
	Mode     uint32 // st_mode: file type and permission bits as in stat(2)
	UID, GID uint32
	ModTime  int64            // seconds since the epoch; written clamped to 32 bits unsigned
	Xattrs   []Xattr          // in any order; of two with one name the later counts
	Target   string           // of a symbolic link, 1 to 65535 bytes
	Rdev     uint64           // of a device, as in stat(2): unix.Mkdev
	Data     *Data            // of a regular file; nil is an empty one
	Children map[string]*Node // of a directory
}
