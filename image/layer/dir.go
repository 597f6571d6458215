package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

// openAhead is how many files are opened before they are read, so that the
// kernel fetches them from the disk meanwhile.
const openAhead = 32

// FromDir makes a tree of a directory, with the file contents in store: all
// kinds of files, hard links, extended attributes. The order of the names
// decides the order of the contents. A file that cannot be read is an error.
func FromDir(ctx context.Context, dir string, store Store, o Options) (*squashfs.Node, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &dirWalk{ctx: ctx, found: make(chan foundFile, openAhead), links: map[fileID]*squashfs.Node{}}
	var root *squashfs.Node
	var walkErr error
	go func() {
		defer close(w.found)
		root, walkErr = w.walkRoot(dir)
	}()
	m := &merge{store: store, options: o}
	err := m.storeFound(w.found, cancel)
	cancel()
	if err == nil {
		err = walkErr
	}
	if err != nil {
		return nil, fmt.Errorf("read directory tree: %w", err)
	}
	return root, nil
}

// dirWalk walks through a directory and hands out the files with content.
type dirWalk struct {
	ctx   context.Context
	found chan foundFile
	links map[fileID]*squashfs.Node // files with more than one name
}

type fileID struct{ dev, ino uint64 }

// foundFile is a file to be stored.
type foundFile struct {
	f *os.File
	e *entry
}

// storeFound stores files until there are no more. After an error it cancels
// the walk and closes what was opened ahead.
func (m *merge) storeFound(found <-chan foundFile, cancel func()) (err error) {
	for file := range found {
		if err == nil {
			if err = m.storeFile(file); err != nil {
				cancel()
			}
		}
		file.f.Close()
	}
	return err
}

func (m *merge) storeFile(file foundFile) error {
	err := m.storeContent(file.e, &countingReader{io.LimitReader(file.f, file.e.size), m.options.Progress})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("file has become shorter while it was read")
	}
	var pathErr *os.PathError
	if err != nil && !errors.As(err, &pathErr) {
		err = &os.PathError{Op: "store", Path: file.f.Name(), Err: err}
	}
	return err
}

func (w *dirWalk) walkRoot(dir string) (*squashfs.Node, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return w.walkDir(f, &st)
}

// walkDir makes a node of an open directory and all below it.
func (w *dirWalk) walkDir(f *os.File, st *unix.Stat_t) (*squashfs.Node, error) {
	if err := w.ctx.Err(); err != nil {
		return nil, err
	}
	n := statNode(st)
	var err error
	if n.Xattrs, err = fileXattrs(f); err != nil {
		return nil, &os.PathError{Op: "read extended attributes of", Path: f.Name(), Err: err}
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	n.Children = make(map[string]*squashfs.Node, len(names))
	for _, name := range names {
		if n.Children[name], err = w.visit(f, name); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// visit makes a node of a directory's entry.
func (w *dirWalk) visit(dir *os.File, name string) (*squashfs.Node, error) {
	path := dir.Name() + "/" + name
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	id := fileID{st.Dev, st.Ino}
	if n := w.links[id]; n != nil {
		return n, nil
	}
	n, err := w.visitNew(dir, name, path, &st)
	if err == nil && st.Nlink > 1 && !isDir(n) {
		w.links[id] = n
	}
	return n, err
}

func (w *dirWalk) visitNew(dir *os.File, name, path string, st *unix.Stat_t) (n *squashfs.Node, err error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFREG:
		return w.open(dir, name, path, st)
	}
	n = statNode(st)
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if n.Target, err = readlink(dir, name); err != nil {
			return nil, &os.PathError{Op: "readlink", Path: path, Err: err}
		}
	}
	if n.Xattrs, err = entryXattrs(dir, name); err != nil {
		return nil, &os.PathError{Op: "read extended attributes of", Path: path, Err: err}
	}
	return n, nil
}

// open opens a directory or regular file, and goes on with what it is then.
func (w *dirWalk) open(dir *os.File, name, path string, st *unix.Stat_t) (*squashfs.Node, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	kind := st.Mode & unix.S_IFMT
	if err := unix.Fstat(fd, st); err != nil || st.Mode&unix.S_IFMT != kind {
		f.Close()
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("file has changed while it was read")}
	}
	if kind == unix.S_IFDIR {
		defer f.Close()
		return w.walkDir(f, st)
	}
	n := statNode(st)
	if n.Xattrs, err = fileXattrs(f); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "read extended attributes of", Path: path, Err: err}
	}
	if st.Size == 0 {
		f.Close()
		return n, nil
	}
	// The kernel may refuse the advice; it is no more than that.
	_ = unix.Fadvise(fd, 0, min(st.Size, 8<<20), unix.FADV_WILLNEED)
	select {
	case w.found <- foundFile{f: f, e: &entry{name: path, node: n, size: st.Size}}:
		return n, nil
	case <-w.ctx.Done():
		f.Close()
		return nil, w.ctx.Err()
	}
}

func statNode(st *unix.Stat_t) *squashfs.Node {
	n := &squashfs.Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, ModTime: st.Mtim.Sec}
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFCHR || kind == unix.S_IFBLK {
		n.Rdev = st.Rdev
	}
	return n
}

func readlink(dir *os.File, name string) (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, target)
	return string(target[:max(n, 0)]), err
}

// hostLabel is the attribute of SELinux: a label of this host's policy, which
// has no meaning elsewhere.
const hostLabel = "security.selinux"

// fileXattrs reads the extended attributes of an open file.
func fileXattrs(f *os.File) ([]squashfs.Xattr, error) {
	fd := int(f.Fd())
	return readXattrs(
		func(p []byte) (int, error) { return unix.Flistxattr(fd, p) },
		func(name string, p []byte) (int, error) { return unix.Fgetxattr(fd, name, p) })
}

// entryXattrs reads those of what cannot be opened, a symbolic link or device.
// There is no system call for that but by a path; without /proc, a file has
// none.
func entryXattrs(dir *os.File, name string) ([]squashfs.Xattr, error) {
	path := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + name
	list, err := readXattrs(
		func(p []byte) (int, error) { return unix.Llistxattr(path, p) },
		func(name string, p []byte) (int, error) { return unix.Lgetxattr(path, name, p) })
	if err == unix.ENOENT {
		return nil, nil
	}
	return list, err
}

func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]squashfs.Xattr, error) {
	names, err := sized(list)
	if err == unix.ENOTSUP || len(names) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []squashfs.Xattr
	for name := range strings.SplitSeq(strings.TrimRight(string(names), "\x00"), "\x00") {
		if name == hostLabel {
			continue
		}
		value, err := sized(func(p []byte) (int, error) { return get(name, p) })
		if err == unix.ENODATA || err == unix.EPERM || err == unix.ENOTSUP {
			continue // gone, or listed but not for us
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, squashfs.Xattr{Name: name, Value: value})
	}
	slices.SortFunc(all, func(a, b squashfs.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// sized calls a system call that tells the size of its answer when given no
// room.
func sized(call func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := call(nil)
		if n <= 0 || err != nil {
			return nil, err
		}
		p := make([]byte, n)
		if n, err = call(p); err == unix.ERANGE {
			continue // it has grown since
		}
		if err != nil {
			return nil, err
		}
		return p[:n], nil
	}
}
