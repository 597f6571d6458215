package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/layer"
	"github.com/coracle-runtime/coracle/image/sif"
	"github.com/coracle-runtime/coracle/image/squashfs"
)

// localRecipe makes an image of a local one, whose own metadata stay: an
// environment or runscript that its maker wrote is not replaced.
func localRecipe(img *Image, from string, o *PullOptions) (*recipe, error) {
	root, err := img.Root()
	if err != nil {
		return nil, err
	}
	labels, err := readLabels(root)
	if err != nil {
		return nil, err
	}
	created, identity, err := img.origin()
	if err != nil {
		return nil, err
	}
	r := &recipe{
		meta: metadata{
			def: definition{"localimage", from}, labels: labels, arch: img.Arch,
			created: o.timeOr(created), version: o.Version,
		},
		identity: identity,
	}
	if r.meta.arch == "" {
		r.meta.arch = runtime.GOARCH
	}
	if r.meta.ociConfig, err = img.OCIConfig(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if r.history, err = img.DefFile(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r.existing = existingMeta(root)
	r.tree = func(ctx context.Context, store layer.Store) (*squashfs.Node, error) {
		return img.tree(ctx, store, o)
	}
	return r, nil
}

// existingMeta reads those files of /.singularity.d that inspect shows.
func existingMeta(root Root) map[string]string {
	existing := map[string]string{}
	names := []string{metaDir + "/runscript", metaDir + "/startscript", metaDir + "/test", metaDir + "/runscript.help"}
	if env, err := root.ReadDir(metaDir + "/env"); err == nil {
		for _, e := range env {
			names = append(names, metaDir+"/env/"+e)
		}
	}
	for _, name := range names {
		if text, err := readFile(root, name, maxMetaFile); err == nil {
			existing[name] = string(text)
		}
	}
	return existing
}

// origin tells when the image was made and what tells it from others.
func (img *Image) origin() (time.Time, string, error) {
	switch {
	case img.SIF != nil:
		return clampTime(img.SIF.Created), string(img.SIF.ID[:]) + img.Path, nil
	case img.Format == Sandbox:
		st, err := img.file.Stat()
		if err != nil {
			return time.Time{}, "", err
		}
		return clampTime(st.ModTime()), img.Path, nil
	}
	r, err := img.Squashfs()
	if err != nil {
		return time.Time{}, "", err
	}
	return clampTime(r.Info().ModTime), img.Path, nil
}

// clampTime keeps a time in what squashfs can express.
func clampTime(t time.Time) time.Time {
	return time.Unix(max(0, min(t.Unix(), 1<<32-1)), 0)
}

// tree copies the image's root file system.
func (img *Image) tree(ctx context.Context, store layer.Store, o *PullOptions) (*squashfs.Node, error) {
	if img.Format == Sandbox {
		var done atomic.Int64
		return layer.FromDir(ctx, img.Path, store, layer.Options{Workers: o.Workers, Progress: func(n int64) {
			o.progress(Event{Phase: "convert", Done: done.Add(n)})
		}})
	}
	r, err := img.Squashfs()
	if err != nil {
		return nil, err
	}
	c := &copier{ctx: ctx, r: r, store: store, o: o, nodes: map[uint32]*squashfs.Node{}, dirs: map[uint32]bool{}}
	return c.copy(r.Root(), 0)
}

// copier copies a squashfs image into another one.
type copier struct {
	ctx   context.Context
	r     *squashfs.Reader
	store layer.Store
	o     *PullOptions
	nodes map[uint32]*squashfs.Node // files with several names, by inode number
	dirs  map[uint32]bool           // seen, by inode number
	done  int64                     // bytes, uncompressed
}

// maxTreeDepth is as deep as a path of PATH_MAX bytes goes.
const maxTreeDepth = unix.PathMax / 2

func (c *copier) copy(ref squashfs.Ref, depth int) (*squashfs.Node, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, context.Cause(c.ctx)
	}
	if depth > maxTreeDepth {
		return nil, errors.New("directories are nested too deeply")
	}
	in, err := c.r.Inode(ref)
	if err != nil {
		return nil, err
	}
	if n := c.nodes[in.Number]; n != nil {
		return n, nil
	}
	n := &squashfs.Node{Mode: in.Mode, UID: in.UID, GID: in.GID, ModTime: int64(in.ModTime), Rdev: in.Rdev}
	if n.Xattrs, err = c.r.Xattrs(in); err != nil {
		return nil, err
	}
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return n, c.children(n, in, depth)
	case unix.S_IFLNK:
		n.Target, err = c.r.Readlink(in)
	case unix.S_IFREG:
		content := io.NewSectionReader(inodeReader{c.r, in}, 0, int64(in.Size))
		n.Data, err = c.store.WriteData(content, int64(in.Size))
		c.done += int64(in.Size)
		c.o.progress(Event{Phase: "convert", Done: c.done})
	}
	if in.Nlink > 1 {
		c.nodes[in.Number] = n
	}
	return n, err
}

func (c *copier) children(n *squashfs.Node, dir *squashfs.Inode, depth int) error {
	var entries []squashfs.Dirent
	err := c.r.ReadDir(dir, 0, func(d squashfs.Dirent, _ int) bool {
		entries = append(entries, d)
		return true
	})
	if err != nil {
		return err
	}
	if c.dirs[dir.Number] { // or a loop of directories would be copied for ever
		return fmt.Errorf("directory inode %d has several names", dir.Number)
	}
	c.dirs[dir.Number] = true
	n.Children = make(map[string]*squashfs.Node, len(entries))
	for _, d := range entries {
		child, err := c.copy(d.Ref, depth+1)
		if err != nil {
			return fmt.Errorf("copy %s: %w", d.Name, err)
		}
		n.Children[d.Name] = child
	}
	return nil
}

// inodeReader reads a file's content.
type inodeReader struct {
	r  *squashfs.Reader
	in *squashfs.Inode
}

func (f inodeReader) ReadAt(p []byte, off int64) (int, error) { return f.r.ReadAt(f.in, p, off) }

// maxMetaFile bounds what is read of an image's description, in bytes.
const maxMetaFile = 4 << 20

func readLabels(root Root) (map[string]string, error) {
	labels := map[string]string{}
	text, err := readFile(root, metaDir+"/labels.json", maxMetaFile)
	if errors.Is(err, fs.ErrNotExist) {
		return labels, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read labels: %w", err)
	}
	if err := json.Unmarshal(text, &labels); err != nil {
		return nil, fmt.Errorf("read labels: %w", err)
	}
	return labels, nil
}

// Labels returns the image's labels.
func (img *Image) Labels() (map[string]string, error) {
	root, err := img.Root()
	if err != nil {
		return nil, err
	}
	return readLabels(root)
}

// DefFile returns the definition that the image was made from. The error is
// fs.ErrNotExist where it has none.
func (img *Image) DefFile() ([]byte, error) {
	if img.SIF != nil {
		if d, ok := img.SIF.Find(sif.DataDeffile, ""); ok {
			return img.SIF.Data(d, maxMetaFile)
		}
	}
	return img.MetaFile("Singularity")
}

// OCIConfig returns the configuration (image-spec, config.md, its "config"
// member) of the OCI image that this one was made from. The error is
// fs.ErrNotExist where it was made from something else.
func (img *Image) OCIConfig() ([]byte, error) {
	if img.SIF != nil {
		if d, ok := img.SIF.Find(sif.DataGenericJSON, "oci-config.json"); ok {
			return img.SIF.Data(d, maxJSON)
		}
	}
	return nil, &fs.PathError{Op: "read", Path: "oci-config.json", Err: fs.ErrNotExist}
}

// MetaFile returns a file of /.singularity.d: "runscript", "startscript",
// "test", "runscript.help", "env/90-environment.sh". The error is
// fs.ErrNotExist where there is none.
func (img *Image) MetaFile(name string) ([]byte, error) {
	root, err := img.Root()
	if err != nil {
		return nil, err
	}
	return readFile(root, metaDir+"/"+name, maxMetaFile)
}

// Runscript returns what `run` executes.
func (img *Image) Runscript() ([]byte, error) { return img.MetaFile("runscript") }
