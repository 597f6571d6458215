package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/layer"
	"github.com/coracle-runtime/coracle/image/squashfs"
)

// BuildOptions say what Build and Pull make.
type BuildOptions struct {
	PullOptions
	Sandbox bool   // Build makes a directory, not a SIF
	Owners  bool   // of a sandbox's files are the image's; for callers who may chown
	Force   bool   // replaces what is there
	Cache   *Cache // may be nil: nothing is kept then
}

// ExistsError is a destination that is there already.
type ExistsError struct {
	Dest  string
	pulls bool
}

// Error says it in SingularityCE's words.
func (e ExistsError) Error() string {
	if e.pulls {
		return fmt.Sprintf("image file already exists: %q - will not overwrite", e.Dest)
	}
	return fmt.Sprintf("build target '%s' already exists. Use --force if you want to overwrite it", e.Dest)
}

// Unwrap returns fs.ErrExist.
func (e ExistsError) Unwrap() error { return fs.ErrExist }

// Hint names the option.
func (e ExistsError) Hint() string { return "to replace it, use --force" }

// Build makes the SIF, or the directory, dest from spec: a URI, or the path of
// a local image. A build that fails or is cancelled leaves nothing behind.
func Build(ctx context.Context, dest, spec string, o BuildOptions) error {
	if err := checkDest(dest, o, false); err != nil {
		return err
	}
	if err := buildFrom(ctx, dest, spec, &o); err != nil {
		return fmt.Errorf("build %s: %w", dest, err)
	}
	return nil
}

// Pull makes the SIF dest from a source. With a cache the image is converted
// once and copied.
func Pull(ctx context.Context, u URI, dest string, o BuildOptions) error {
	o.Sandbox = false
	if err := checkDest(dest, o, true); err != nil {
		return err
	}
	var err error
	if o.Cache == nil {
		err = buildFrom(ctx, dest, u.String(), &o)
	} else if cached, getErr := o.Cache.Get(ctx, u, o.PullOptions); getErr != nil {
		err = getErr
	} else {
		err = copyFile(ctx, cached, dest, o.Force)
	}
	if err != nil {
		return fmt.Errorf("pull %s: %w", dest, err)
	}
	return nil
}

func buildFrom(ctx context.Context, dest, spec string, o *BuildOptions) error {
	r, sources, err := openRecipe(ctx, spec, o)
	if err != nil {
		return err
	}
	if o.Sandbox {
		err = r.createSandbox(ctx, dest, o)
	} else {
		err = r.createSIF(ctx, dest, o.Force, &o.PullOptions)
	}
	return errors.Join(err, sources.Close())
}

func checkDest(dest string, o BuildOptions, pulls bool) error {
	st, err := os.Lstat(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !o.Force:
		return ExistsError{dest, pulls}
	case st.IsDir() && !o.Sandbox:
		return fmt.Errorf("write %s: %w", dest, unix.EISDIR)
	case st.IsDir():
		return checkReplaceable(dest)
	}
	return nil
}

// checkReplaceable spares a directory that was no image from --force.
func checkReplaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, metaDir)); err != nil {
		return fmt.Errorf("replace %s: it is a directory that is no image; remove it first if that is meant", dir)
	}
	return nil
}

// openRecipe opens what is built from. The closer releases it.
func openRecipe(ctx context.Context, spec string, o *BuildOptions) (*recipe, io.Closer, error) {
	if !IsURI(spec) {
		img, err := OpenWith(spec, OpenOptions{AnyArch: true})
		if err != nil {
			return nil, nil, err
		}
		r, err := localRecipe(img, spec, &o.PullOptions)
		if err != nil {
			return nil, nil, errors.Join(err, img.Close())
		}
		return r, img, nil
	}
	u, err := ParseURI(spec)
	if err != nil {
		return nil, nil, err
	}
	s, err := openSource(ctx, u, &o.PullOptions, o.Cache.blobs(&o.PullOptions))
	if err != nil {
		return nil, nil, err
	}
	return ociRecipe(u, s, &o.PullOptions), s, nil
}

// createSandbox unpacks the image into the directory dest: through a squashfs
// without a name, so that there is one way to merge layers and one to unpack.
func (r *recipe) createSandbox(ctx context.Context, dest string, o *BuildOptions) error {
	temp := o.tempDir()
	packed, err := temporaryFile(temp)
	if err != nil {
		return err
	}
	defer packed.Close()
	// The level is the fastest: it is read once.
	size, err := r.writeSquashfs(ctx, packed, squashfs.WriterOptions{Level: 1, Workers: o.Workers}, &o.PullOptions)
	if err != nil {
		return explainSpace(temp, err)
	}
	reader, err := squashfs.NewReader(packed, size, squashfs.ReaderOptions{})
	if err != nil {
		return err
	}
	return extractTo(ctx, reader, dest, o)
}

// extractTo unpacks beside dest and renames.
func extractTo(ctx context.Context, r *squashfs.Reader, dest string, o *BuildOptions) error {
	removeStale(dest)
	d, err := newLockedDir(func() string { return temporaryName(dest) })
	if err != nil {
		return err
	}
	err = extract(ctx, r, d.path, o)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = d.commit(dest, o.Force)
	}
	return explainSpace(filepath.Dir(dest), errors.Join(err, d.Close()))
}

func extract(ctx context.Context, r *squashfs.Reader, dir string, o *BuildOptions) error {
	var done atomic.Int64
	return layer.Extract(ctx, r, dir, layer.ExtractOptions{
		Workers: o.Workers, Owners: o.Owners, Log: o.Log,
		Progress: func(n int64) { o.progress(Event{Phase: "extract", Done: done.Add(n)}) },
	})
}

// copyFile copies an image, sharing its blocks where the file system can.
func copyFile(ctx context.Context, from, to string, force bool) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	n, err := createFile(to, 0o755)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(n.Fd()), int(src.Fd())) != nil {
		err = copyRanges(ctx, n.File, src)
	}
	if err == nil {
		err = n.commit(force)
	}
	return explainSpace(filepath.Dir(to), errors.Join(err, n.Close()))
}

// copyRanges copies by copy_file_range(2), which CopyN comes to, in pieces
// between which the context may end it.
func copyRanges(ctx context.Context, to, from *os.File) error {
	for ctx.Err() == nil {
		_, err := io.CopyN(to, from, 64<<20)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
