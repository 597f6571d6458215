package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// TemporaryImage is a SIF for one run, where there is no cache.
type TemporaryImage struct {
	Path string

	dir *lockedDir
}

// Close removes the image.
func (t *TemporaryImage) Close() error { return t.dir.Close() }

// Temporary converts a source to a SIF in the directory for temporary files.
// What killed processes left there is removed first.
func Temporary(ctx context.Context, u URI, o PullOptions) (*TemporaryImage, error) {
	prefix := filepath.Join(o.tempDir(), "coracle-image-"+strconv.Itoa(os.Geteuid())+"-")
	cleanUp(prefix, o.log())
	dir, err := newLockedDir(func() string { return prefix + rand.Text()[:10] })
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", u, err)
	}
	t := &TemporaryImage{filepath.Join(dir.path, u.FileName()), dir}
	if err := Pull(ctx, u, t.Path, BuildOptions{PullOptions: o}); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return t, nil
}
