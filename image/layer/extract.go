package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

// ExtractOptions of Extract. The zero value works.
type ExtractOptions struct {
	Workers int // 0 stands for the number of processors
	// Owners gives files the image's owners, modes with set-user-ID bits and
	// device nodes, as far as the kernel lets us. Without it all belongs to the
	// caller, who can read, change and delete it.
	Owners   bool
	Progress func(bytes int64) // told of file contents as they are written; from several goroutines
	Log      *slog.Logger      // gets a warning if something could not be made
}

// Extract writes an image's files to a directory, which is made, or is empty.
// It follows no symbolic link. After an error it removes what it has made.
func Extract(ctx context.Context, r *squashfs.Reader, dir string, o ExtractOptions) (err error) {
	made, err := emptyDir(dir)
	if err != nil {
		return fmt.Errorf("extract image: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("extract image: %w", err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := &extraction{ctx: ctx, cancel: cancel, r: r, root: root, options: o, names: map[squashfs.Ref]string{}}
	if err := x.run(); err != nil {
		return errors.Join(fmt.Errorf("extract image: %w", err), undo(root, dir, made))
	}
	x.warn()
	return nil
}

// emptyDir makes a directory unless it is there and empty.
func emptyDir(dir string) (made bool, err error) {
	if err = os.Mkdir(dir, 0o700); err == nil || !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	names, err := os.ReadDir(dir)
	if err == nil && len(names) > 0 {
		err = &os.PathError{Op: "write to", Path: dir, Err: unix.ENOTEMPTY}
	}
	return false, err
}

// undo empties a directory, and removes it if it was made here.
func undo(root *os.Root, dir string, made bool) error {
	if made {
		return os.RemoveAll(dir)
	}
	names, err := fs.ReadDir(root.FS(), ".")
	for _, n := range names {
		err = errors.Join(err, root.RemoveAll(n.Name()))
	}
	return err
}

// extraction is the state of one Extract. One goroutine walks through the
// image, makes directories and small things, and hands files to workers. When
// they are done it makes the hard links and gives directories their modes and
// times.
type extraction struct {
	ctx     context.Context
	cancel  context.CancelFunc
	r       *squashfs.Reader
	root    *os.Root
	options ExtractOptions

	jobs     chan fileJob
	names    map[squashfs.Ref]string // of directories, and of files with more than one name: their first
	links    []hardLink
	finished []finishedDir

	failure  sync.Once
	err      error
	devices  atomic.Int64 // not made
	xattrs   atomic.Int64 // not set
	ownerErr atomic.Int64 // owners not set
}

type fileJob struct {
	dir  *sharedDir
	name string
	in   *squashfs.Inode
}

type hardLink struct{ old, new string }

type finishedDir struct {
	path string
	in   *squashfs.Inode
}

// sharedDir is an open directory that closes when nobody needs it any more.
type sharedDir struct {
	f     *os.File
	users atomic.Int64
}

func (d *sharedDir) fd() int { return int(d.f.Fd()) }

func (d *sharedDir) done() {
	if d.users.Add(-1) == 0 {
		d.f.Close()
	}
}

func (x *extraction) run() error {
	workers := x.options.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	x.jobs = make(chan fileJob, 4*workers)
	var working sync.WaitGroup
	for range workers {
		working.Go(x.work)
	}
	x.fail(x.walk())
	close(x.jobs)
	working.Wait()
	if x.err == nil {
		x.fail(x.finish())
	}
	return x.err
}

func (x *extraction) fail(err error) {
	if err != nil {
		x.failure.Do(func() { x.err = err })
		x.cancel()
	}
}

func (x *extraction) walk() error {
	in, err := x.r.Inode(x.r.Root())
	if err != nil {
		return err
	}
	return x.walkDir(in, ".", 0)
}

// walkDir fills a directory that has been made.
func (x *extraction) walkDir(in *squashfs.Inode, path string, depth int) error {
	if other, twice := x.names[in.Ref]; twice || depth > maxDepth {
		return fmt.Errorf("directory %q is also %q, or too deep", path, other)
	}
	x.names[in.Ref] = path
	f, err := x.root.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	dir := &sharedDir{f: f}
	dir.users.Store(1)
	defer dir.done()
	var subdirs []squashfs.Dirent
	var visitErr error
	err = x.r.ReadDir(in, 0, func(d squashfs.Dirent, _ int) bool {
		if visitErr = x.ctx.Err(); visitErr != nil {
			return false
		}
		if d.Mode == unix.S_IFDIR {
			subdirs = append(subdirs, d)
			return true
		}
		visitErr = x.visit(dir, path, d)
		return visitErr == nil
	})
	if err = errors.Join(err, visitErr); err != nil {
		return err
	}
	for _, d := range subdirs {
		if err := x.makeDir(dir, filepath.Join(path, d.Name), d, depth); err != nil {
			return err
		}
	}
	x.finished = append(x.finished, finishedDir{path, in})
	return nil
}

func (x *extraction) makeDir(parent *sharedDir, path string, d squashfs.Dirent, depth int) error {
	if !validName(d.Name) {
		return &os.PathError{Op: "make", Path: path, Err: fs.ErrInvalid}
	}
	in, err := x.r.Inode(d.Ref)
	if err != nil {
		return err
	}
	if !in.IsDir() {
		return &os.PathError{Op: "make", Path: path, Err: unix.ENOTDIR}
	}
	if err := unix.Mkdirat(parent.fd(), d.Name, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return x.walkDir(in, path, depth+1)
}

func validName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// visit makes a file that is no directory, or hands it to the workers.
func (x *extraction) visit(dir *sharedDir, parent string, d squashfs.Dirent) error {
	path := filepath.Join(parent, d.Name)
	if !validName(d.Name) {
		return &os.PathError{Op: "make", Path: path, Err: fs.ErrInvalid}
	}
	in, err := x.r.Inode(d.Ref)
	if err != nil {
		return err
	}
	if in.IsDir() {
		return &os.PathError{Op: "make", Path: path, Err: unix.EISDIR}
	}
	if in.Nlink > 1 {
		if first, ok := x.names[in.Ref]; ok {
			x.links = append(x.links, hardLink{first, path})
			return nil
		}
		x.names[in.Ref] = path
	}
	if !in.IsRegular() {
		return x.special(dir, d.Name, path, in)
	}
	dir.users.Add(1)
	select {
	case x.jobs <- fileJob{dir, d.Name, in}:
		return nil
	case <-x.ctx.Done():
		dir.done()
		return x.ctx.Err()
	}
}

// special makes a symbolic link, device, pipe or socket.
func (x *extraction) special(dir *sharedDir, name, path string, in *squashfs.Inode) error {
	if in.IsSymlink() {
		target, err := x.r.Readlink(in)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, dir.fd(), name); err != nil {
			return &os.PathError{Op: "symlink", Path: path, Err: err}
		}
		return x.attributes(dir, name, path, in)
	}
	device := in.Mode&unix.S_IFMT == unix.S_IFCHR || in.Mode&unix.S_IFMT == unix.S_IFBLK
	var err error = unix.EPERM
	if !device || x.options.Owners {
		err = unix.Mknodat(dir.fd(), name, in.Mode&unix.S_IFMT|0o600, int(in.Rdev))
	}
	if device && errors.Is(err, unix.EPERM) {
		x.devices.Add(1)
		delete(x.names, in.Ref) // so that other names of it are counted too
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	return x.attributes(dir, name, path, in)
}

// attributes gives what special has made its owner, mode, and times.
func (x *extraction) attributes(dir *sharedDir, name, path string, in *squashfs.Inode) error {
	if x.options.Owners {
		x.owned(unix.Fchownat(dir.fd(), name, int(in.UID), int(in.GID), unix.AT_SYMLINK_NOFOLLOW))
	}
	if !in.IsSymlink() {
		// It is no link, and nobody else writes here: following one is not to be feared.
		if err := unix.Fchmodat(dir.fd(), name, x.mode(in), 0); err != nil {
			return &os.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	if err := unix.UtimesNanoAt(dir.fd(), name, times(in), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set times of", Path: path, Err: err}
	}
	return nil
}

// mode is what an inode's permission bits become.
func (x *extraction) mode(in *squashfs.Inode) uint32 {
	mode := in.Mode & 0o7777
	if x.options.Owners {
		return mode
	}
	// A set-user-ID program of ours would lend our own rights to others.
	mode = mode&^(unix.S_ISUID|unix.S_ISGID) | 0o600
	if in.IsDir() {
		mode |= 0o700
	}
	return mode
}

func times(in *squashfs.Inode) []unix.Timespec {
	t := unix.Timespec{Sec: int64(in.ModTime)}
	return []unix.Timespec{t, t}
}

func (x *extraction) owned(err error) {
	if err != nil {
		x.ownerErr.Add(1)
	}
}

// finish makes hard links, and completes the directories, whose times change
// while they are filled: the innermost first.
func (x *extraction) finish() error {
	if err := x.ctx.Err(); err != nil {
		return err // the workers may have left files out
	}
	for _, l := range x.links {
		if err := x.root.Link(l.old, l.new); err != nil {
			return err
		}
	}
	for _, d := range x.finished {
		if err := x.finishDir(d); err != nil {
			return &os.PathError{Op: "complete", Path: d.path, Err: err}
		}
	}
	return nil
}

func (x *extraction) finishDir(d finishedDir) error {
	f, err := x.root.OpenFile(d.path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return x.complete(f, d.in)
}

// complete gives an open file or directory its attributes. The mode comes
// after the owner, whose change takes set-user-ID bits away.
func (x *extraction) complete(f *os.File, in *squashfs.Inode) error {
	fd := int(f.Fd())
	if x.options.Owners {
		x.owned(unix.Fchown(fd, int(in.UID), int(in.GID)))
	}
	if in.HasXattrs() {
		if err := x.setXattrs(fd, in); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, x.mode(in)); err != nil {
		return err
	}
	return futimens(fd, times(in))
}

// futimens is what the C library calls so: utimensat without a path, for which
// package unix has no function.
func futimens(fd int, t []unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&t[0])), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// setXattrs sets what may be set: without Owners, attributes of users.
func (x *extraction) setXattrs(fd int, in *squashfs.Inode) error {
	list, err := x.r.Xattrs(in)
	if err != nil {
		return err
	}
	for _, a := range list {
		if !x.options.Owners && !strings.HasPrefix(a.Name, "user.") {
			continue
		}
		err := unix.Fsetxattr(fd, a.Name, a.Value, 0)
		switch {
		case err == nil:
		case slices.Contains([]error{unix.ENOTSUP, unix.EPERM, unix.EINVAL, unix.ENOSPC, unix.E2BIG}, err):
			x.xattrs.Add(1) // what filesystems and kernels say that cannot hold it
		default:
			return fmt.Errorf("set extended attribute %q: %w", a.Name, err)
		}
	}
	return nil
}

// warn says once what could not be made.
func (x *extraction) warn() {
	if x.options.Log == nil {
		return
	}
	if n := x.devices.Load(); n > 0 {
		x.options.Log.Warn(fmt.Sprintf("left out %d device nodes, which only root can make", n))
	}
	if n := x.xattrs.Load(); n > 0 {
		x.options.Log.Warn(fmt.Sprintf("left out %d extended attributes that cannot be set here", n))
	}
	if n := x.ownerErr.Load(); n > 0 {
		x.options.Log.Warn(fmt.Sprintf("could not set the owners of %d files", n))
	}
}
