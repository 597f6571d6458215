package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/layer"
	"github.com/coracle-runtime/coracle/image/sif"
	"github.com/coracle-runtime/coracle/image/squashfs"
)

// recipe is what an image is made of, whatever it comes from.
type recipe struct {
	meta      metadata
	overwrite bool   // the metadata that the source has
	identity  string // of the source, for the image's ID
	// tree stores the contents of the source's files and returns its tree.
	tree func(ctx context.Context, store layer.Store) (*squashfs.Node, error)
	// existing are the metadata files of a local image that this one is made
	// from, which stay; history is its definition.
	existing map[string]string
	history  []byte
}

// ociRecipe makes an image of an OCI one's layers.
func ociRecipe(u URI, s *source, o *PullOptions) *recipe {
	var done atomic.Int64
	var total int64
	for _, l := range s.layers {
		total += l.Size
	}
	return &recipe{
		meta: metadata{
			def: definition{u.Scheme, u.From()}, config: s.config, ociConfig: s.config.object, labels: s.config.Config.Labels,
			arch: s.arch(), created: o.timeOr(s.config.created()), version: o.Version,
		},
		overwrite: true,
		identity:  s.digest,
		tree: func(ctx context.Context, store layer.Store) (*squashfs.Node, error) {
			return layer.Merge(ctx, s.layers, store, layer.Options{Workers: o.Workers, Progress: func(n int64) {
				o.progress(Event{"convert", done.Add(n), total})
			}})
		},
	}
}

// timeOr is the time to be written into the image.
func (o *PullOptions) timeOr(source time.Time) time.Time {
	if !o.Time.IsZero() {
		return o.Time
	}
	return source
}

// writeSIF makes a native SIF: the descriptors that SingularityCE writes, in
// its order. The file system is written in place, while the source is read.
func (r *recipe) writeSIF(ctx context.Context, f sif.Output, o *PullOptions) error {
	w, err := sif.NewWriter(f, sif.Options{
		ID:   sif.DeriveID([]byte(r.identity), []byte(o.formatKey())),
		Time: r.meta.created, Launch: sif.LaunchScript,
	})
	if err != nil {
		return err
	}
	objects := []struct {
		kind    sif.DataType
		name    string
		content []byte
	}{
		{sif.DataDeffile, "", []byte(r.meta.def.String())},
		{sif.DataGenericJSON, "inspect-metadata.json", r.inspectJSON()},
		{sif.DataGenericJSON, "oci-config.json", r.meta.ociConfig},
	}
	for _, object := range objects {
		if object.content == nil {
			continue
		}
		if _, err := w.Add(sif.Descriptor{Type: object.kind, Group: 1, Name: object.name}, object.content); err != nil {
			return err
		}
	}
	partition := sif.Descriptor{Type: sif.DataPartition, Group: 1}
	if err := partition.SetPartition(sif.Partition{FS: sif.FSSquashfs, Type: sif.PartPrimary, Arch: r.meta.arch}); err != nil {
		return err
	}
	section, err := w.Begin(partition)
	if err != nil {
		return err
	}
	size, err := r.writeSquashfs(ctx, section, squashfs.WriterOptions{
		Compression: o.compression(), Level: o.Level, Workers: o.Workers, ModTime: r.meta.created,
	}, o)
	if err != nil {
		return err
	}
	if _, err := w.End(size); err != nil {
		return err
	}
	return w.Close()
}

// writeSquashfs writes the root file system and returns its size in bytes.
func (r *recipe) writeSquashfs(ctx context.Context, out squashfs.Output, wo squashfs.WriterOptions, o *PullOptions) (int64, error) {
	w, err := squashfs.NewWriter(out, wo)
	if err != nil {
		return 0, err
	}
	size, err := r.fill(ctx, w)
	if names := w.DroppedXattrs(); len(names) > 0 {
		o.log().Warn("extended attributes that squashfs cannot store are left out", "names", names)
	}
	return size, errors.Join(err, w.Close())
}

func (r *recipe) fill(ctx context.Context, w *squashfs.Writer) (int64, error) {
	root, err := r.tree(ctx, w)
	if err != nil {
		return 0, err
	}
	files := r.meta.baseFiles(r.overwrite)
	if r.history != nil {
		files = append(files, file{path: historyName(root), mode: 0o644, content: r.history})
	}
	for _, f := range files {
		if err := f.insert(root, w, r.meta.created); err != nil {
			return 0, fmt.Errorf("add %s to the image: %w", f.path, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	return w.Finish(root)
}

// historyName is where the next older definition goes.
func historyName(root *squashfs.Node) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s/bootstrap_history/Singularity%d", metaDir, i)
		if _, err := layer.Lookup(root, name); err != nil {
			return name
		}
	}
}

// inspectJSON describes the image from the metadata that is put in, or stays.
func (r *recipe) inspectJSON() []byte {
	contents := map[string]string{}
	for _, f := range r.meta.metaFiles(r.overwrite) {
		contents[f.path] = string(f.content)
	}
	maps.Copy(contents, r.existing)
	return r.meta.inspectJSON(contents)
}

// insert puts the file into a tree. What is there already stays, unless it is
// to be replaced; a link that leads nowhere is no file.
func (f *file) insert(root *squashfs.Node, store layer.Store, t time.Time) error {
	if _, err := layer.Resolve(root, f.path); err == nil && !f.replace {
		return nil
	}
	if there, err := layer.Lookup(root, f.path); err == nil && !f.replace && (f.mode&fs.ModeSymlink != 0 || f.mode.IsDir() && isLink(there)) {
		return nil
	}
	n := &squashfs.Node{Mode: unixMode(f.mode), ModTime: t.Unix(), Target: f.target}
	switch {
	case f.mode.IsDir():
		n.Children = map[string]*squashfs.Node{}
	case f.mode.IsRegular() && len(f.content) > 0:
		var err error
		if n.Data, err = store.WriteData(bytes.NewReader(f.content), int64(len(f.content))); err != nil {
			return err
		}
	}
	return layer.Insert(root, f.path, n)
}

func isLink(n *squashfs.Node) bool { return n.Mode&unix.S_IFMT == unix.S_IFLNK }

// unixMode is st_mode.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	switch m.Type() {
	case fs.ModeDir:
		mode |= unix.S_IFDIR
	case fs.ModeSymlink:
		mode |= unix.S_IFLNK
	default:
		mode |= unix.S_IFREG
	}
	if m&fs.ModeSticky != 0 {
		mode |= unix.S_ISVTX
	}
	return mode
}

// createSIF makes the file at dest. It appears when it is complete.
func (r *recipe) createSIF(ctx context.Context, dest string, force bool, o *PullOptions) error {
	o.log().Info("Creating SIF file...")
	n, err := createFile(dest, 0o755)
	if err != nil {
		return explainSpace(filepath.Dir(dest), err)
	}
	err = r.writeSIF(ctx, n, o)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = n.commit(force)
	}
	return explainSpace(filepath.Dir(dest), errors.Join(err, n.Close()))
}
