package fusefs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// Entry is a synthetic file: a mount point or a generated file that the image
// does not have.
//
// A directory where the image has one is the image's: nothing is hidden and
// its mode stays. Everything else hides what the image has there. Directories
// that are missing on the way are made, with mode 0755.
type Entry struct {
	Path    string // absolute and clean; the directories on the way may not be symbolic links
	Mode    uint32 // st_mode: a directory, regular file or symbolic link, and permissions
	Content []byte `json:",omitempty"` // of a file, or the target of a link
}

// synthetic holds the files that are presented on top of the image.
type synthetic struct {
	files []*file // by node id
	over  map[squashfs.Ref]*directory
}

// file is a synthetic file.
type file struct {
	id      uint64
	ino     uint64
	mode    uint32
	content []byte
	dir     *directory // of a directory
}

// directory holds the synthetic files in a directory of either kind.
type directory struct {
	parent   uint64   // inode number of "..", of a synthetic directory
	names    []string // sorted once all are known: the order of READDIR
	children map[string]*file
	links    int // what the children add to the directory's count of links
}

const impliedMode = unix.S_IFDIR | 0o755

// errNotDirectory is why an entry cannot be below a path.
var errNotDirectory = errors.New("not a directory")

// present adds entries to the tree.
func (s *Server) present(entries []Entry) error {
	s.added.over = map[squashfs.Ref]*directory{}
	for _, e := range entries {
		if err := s.presentOne(e); err != nil {
			return fmt.Errorf("present %s: %w", e.Path, err)
		}
	}
	for _, d := range s.added.over {
		slices.Sort(d.names)
	}
	for _, f := range s.added.files {
		if f.dir != nil {
			slices.Sort(f.dir.names)
		}
	}
	return nil
}

func (s *Server) presentOne(e Entry) error {
	kind := e.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && kind != unix.S_IFREG && kind != unix.S_IFLNK {
		return fmt.Errorf("file type %#o cannot be presented", kind)
	}
	clean := path.Clean(e.Path)
	if !path.IsAbs(clean) || clean == "/" || clean != strings.TrimSuffix(e.Path, "/") || strings.ContainsRune(clean, 0) {
		return errors.New("not a clean absolute path")
	}
	names := strings.Split(clean[1:], "/")
	at, err := s.imageNode(s.img.Root())
	if err != nil {
		return err
	}
	for i, name := range names {
		last := i == len(names)-1
		want := e
		if !last {
			want = Entry{Mode: impliedMode}
		}
		if at, err = s.step(at, name, want, !last); err != nil {
			return fmt.Errorf("%s: %w", "/"+strings.Join(names[:i+1], "/"), err)
		}
	}
	return nil
}

// step goes from a directory to the file name in it, which it makes if it is
// not yet as wanted. A directory that is only on the way is taken as it is.
func (s *Server) step(at node, name string, want Entry, onTheWay bool) (node, error) {
	if len(name) > maxName {
		return node{}, unix.ENAMETOOLONG
	}
	wantDir := want.Mode&unix.S_IFMT == unix.S_IFDIR
	if at.extra != nil {
		if f := at.extra.children[name]; f != nil {
			return s.revise(f, want, onTheWay)
		}
	}
	hidden, err := s.imageChild(at, name)
	if err != nil {
		return node{}, err
	}
	if hidden != nil && wantDir {
		if hidden.Mode&unix.S_IFMT == unix.S_IFDIR {
			return s.imageNode(hidden.Ref)
		}
		if onTheWay {
			return node{}, errNotDirectory
		}
	}
	return s.add(at, name, want, hidden), nil
}

// revise lets a later entry replace an earlier one of its kind.
func (s *Server) revise(f *file, want Entry, onTheWay bool) (node, error) {
	wantDir := want.Mode&unix.S_IFMT == unix.S_IFDIR
	if wantDir != (f.dir != nil) {
		if wantDir {
			return node{}, errNotDirectory
		}
		return node{}, errors.New("is a directory")
	}
	if !onTheWay {
		f.mode, f.content = want.Mode, want.Content
	}
	return node{made: f, extra: f.dir}, nil
}

// imageChild finds what the image has under a name, nil if nothing.
func (s *Server) imageChild(at node, name string) (*squashfs.Inode, error) {
	if at.in == nil {
		return nil, nil
	}
	d, err := s.img.Lookup(at.in, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.img.Inode(d.Ref)
}

func (s *Server) add(at node, name string, want Entry, hidden *squashfs.Inode) node {
	d := at.extra
	if d == nil {
		d = &directory{children: map[string]*file{}}
		s.added.over[at.in.Ref] = d
	}
	n := uint64(len(s.added.files))
	f := &file{
		id:      firstSynthetic + n,
		ino:     uint64(s.info.Inodes) + 1 + n, // the image numbers its inodes from 1 on
		mode:    want.Mode,
		content: want.Content,
	}
	if want.Mode&unix.S_IFMT == unix.S_IFDIR {
		f.dir = &directory{parent: at.number(), children: map[string]*file{}}
		f.content = nil
		d.links++
	}
	if hidden != nil && hidden.Mode&unix.S_IFMT == unix.S_IFDIR {
		d.links--
	}
	s.added.files = append(s.added.files, f)
	d.children[name] = f
	d.names = append(d.names, name)
	return node{made: f, extra: f.dir}
}
