package image

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cache keeps converted images and what was downloaded for them. Below its
// directory, by SingularityCE's names:
//
//	oci-tmp/DIGEST-OPTIONS  native SIFs
//	blob/blobs/sha256/HEX   manifests, configurations and layers from registries
//	blob/refs/HEX           which digest a tag, or an archive, had
//
// Every file appears there when it is complete, under a name that its content
// determines; anything may be removed at any time. Many processes may use a
// cache at once.
type Cache struct{ Dir string }

// OpenCache makes the directory where it is missing, and makes sure that it
// can be written.
func OpenCache(dir string) (*Cache, error) {
	c := &Cache{dir}
	if err := os.MkdirAll(c.imageDir(), 0o700); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	if err := unix.Access(c.imageDir(), unix.W_OK); err != nil {
		return nil, fmt.Errorf("open cache: %w", &fs.PathError{Op: "write", Path: c.imageDir(), Err: err})
	}
	return c, nil
}

func (c *Cache) imageDir() string { return filepath.Join(c.Dir, "oci-tmp") }

// blobs is where registries' blobs are kept; of a nil cache nowhere.
func (c *Cache) blobs(o *PullOptions) *blobStore {
	if c == nil {
		return &blobStore{tempDir: o.tempDir()}
	}
	return &blobStore{dir: filepath.Join(c.Dir, "blob"), tempDir: o.tempDir()}
}

// Get returns the path of a source's image, which it makes where it is
// missing. A tag of a registry costs one HEAD request, to see where it points
// to.
func (c *Cache) Get(ctx context.Context, u URI, o PullOptions) (string, error) {
	blobs := c.blobs(&o)
	mark := fingerprint(u, &o)
	if digest, ok := blobs.recall(mark); ok && mark != "" {
		if path := c.path(digest, &o); isImage(path) {
			o.log().Info("Using cached SIF image")
			return path, nil
		}
	}
	s, err := openSource(ctx, u, &o, blobs)
	if err != nil {
		return "", err
	}
	path := c.path(s.digest, &o)
	if isImage(path) {
		o.log().Info("Using cached SIF image")
	} else {
		err = c.convert(ctx, path, u, s, &o)
	}
	if err = errors.Join(err, s.Close()); err != nil {
		return "", err
	}
	if mark != "" {
		blobs.remember(mark, s.digest)
	}
	return path, nil
}

// path is where an image is kept. The name tells the source's digest and a
// digest of the options.
func (c *Cache) path(digest string, o *PullOptions) string {
	options := strings.TrimPrefix(digestOf([]byte(o.formatKey())), "sha256:")[:16]
	return filepath.Join(c.imageDir(), strings.Replace(digest, ":", ".", 1)+"-"+options)
}

func isImage(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// convert makes an image in the cache. Others who want the same one meanwhile
// wait for it.
func (c *Cache) convert(ctx context.Context, path string, u URI, s *source, o *PullOptions) error {
	if err := os.MkdirAll(c.imageDir(), 0o700); err != nil {
		return err
	}
	lock, err := c.lock(ctx, path, o)
	if err != nil {
		return err
	}
	defer lock.Close()
	if isImage(path) {
		return nil
	}
	err = ociRecipe(u, s, o).createSIF(ctx, path, true, o)
	if err != nil && ctx.Err() == nil {
		s.removeDamaged()
	}
	return err
}

// removeDamaged removes from the cache what made a conversion fail.
func (s *source) removeDamaged() {
	for _, c := range s.closers {
		if d, ok := c.(*downloads); ok {
			d.removeDamaged()
		}
	}
}

// fingerprint tells a local source from what it was before it was changed; ""
// stands for sources that are cheap to look into. It saves decompressing an
// archive only to find that its image is in the cache.
func fingerprint(u URI, o *PullOptions) string {
	path := u.Path
	switch u.Scheme {
	case SchemeDockerArchive, SchemeOCIArchive:
	case SchemeBuiltin:
		path = o.Self
	default:
		return ""
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	var st unix.Stat_t
	if unix.Stat(absolute, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%s %q %s %d:%d %d %d %d", u, absolute, o.Platform, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// lock waits until no other process makes the same image, and returns what
// frees the lock. All locks are records of one file, at an offset that the
// image's path determines: so nothing is left of a killed process, and two
// images that collide only wait for one another.
func (c *Cache) lock(ctx context.Context, path string, o *PullOptions) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(c.imageDir(), ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(filepath.Base(path)))
	record := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: int64(binary.BigEndian.Uint64(sum[:]) >> 2), Len: 1}
	for waited := false; ; waited = true {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &record)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			// Any other error: the file system has no locks, and two processes may
			// convert; both make the same bytes.
			return f, nil
		}
		if !waited {
			o.log().Info("Waiting for another process that makes the same image")
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		}
	}
}
