package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/coracle-runtime/coracle/image/layer"
	"github.com/coracle-runtime/coracle/image/squashfs"
)

// Event tells how far a long operation is.
type Event struct {
	Phase string // "download", "read", "convert" or "extract"
	// Done and Total are bytes as stored, compressed or not; Total is 0 where
	// it is not known.
	Done, Total int64
}

// PullOptions say how an image is got and converted. The zero value works.
type PullOptions struct {
	Compression squashfs.Compression // Zstd if 0, or Gzip
	Level       int                  // of compression; 0 is the compressor's default
	Workers     int                  // that compress; 0 is one per CPU. The bytes do not depend on it
	Platform    string               // "linux/arm64" or "arm/v7"; "" is the host's
	NoHTTPS     bool                 // speak http to registries
	TempDir     string               // for what is too large for memory; "" is /tmp
	Version     string               // of this program, for the image's labels
	Self        string               // the running program's file, for builtin images
	// Time, unless zero, stands in the image instead of the time when the
	// source was made (SOURCE_DATE_EPOCH).
	Time time.Time

	Log *slog.Logger // may be nil
	// Progress may be nil. It is called from several goroutines, often.
	Progress func(Event)

	retryPause time.Duration // before a download is tried again; 0 is a second
}

func (o *PullOptions) pause() time.Duration {
	if o.retryPause == 0 {
		return time.Second
	}
	return o.retryPause
}

func (o *PullOptions) log() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

func (o *PullOptions) progress(e Event) {
	if o.Progress != nil {
		o.Progress(e)
	}
}

func (o *PullOptions) tempDir() string {
	if o.TempDir == "" {
		return "/tmp"
	}
	return o.TempDir
}

func (o *PullOptions) compression() squashfs.Compression {
	if o.Compression == 0 {
		return squashfs.Zstd
	}
	return o.Compression
}

// converterVersion changes whenever the same source gives other bytes than
// before, so that caches do not mix them.
const converterVersion = 1

// formatKey tells all that the bytes of an image depend on besides its source.
func (o *PullOptions) formatKey() string {
	key := fmt.Sprintf("v%d %v %d", converterVersion, o.compression(), o.Level)
	if !o.Time.IsZero() {
		key += fmt.Sprintf(" %d", o.Time.Unix())
	}
	return key
}

// source is an image as its source stores it.
type source struct {
	layers []layer.Layer // bottom first
	config *imageConfig
	// digest identifies the content: of the manifest, or of the configuration
	// where there is no manifest.
	digest  string
	closers []io.Closer // of what the layers are read from
}

// Close releases what the layers are read from.
func (s *source) Close() error { return closeAll(s.closers) }

// closeAll closes in reverse.
func closeAll(closers []io.Closer) error {
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i].Close())
	}
	return errors.Join(errs...)
}

// openSource reads an image's manifest and configuration. Its layers are got
// when they are first read. Registries' blobs are kept in blobs.
func openSource(ctx context.Context, u URI, o *PullOptions, blobs *blobStore) (*source, error) {
	var s *source
	var err error
	switch u.Scheme {
	case SchemeDocker:
		s, err = openRegistry(ctx, u, o, blobs)
	case SchemeDockerArchive:
		s, err = openDockerArchive(ctx, u, o)
	case SchemeOCI, SchemeOCIArchive:
		s, err = openLayout(ctx, u, o)
	case SchemeBuiltin:
		s, err = openBuiltin(u, o)
	default:
		err = UnknownSchemeError{u.Scheme}
	}
	if err == nil {
		err = s.check(u, o)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", u, err)
	}
	return s, nil
}

// check holds the configuration to what was asked for and to the layers.
func (s *source) check(u URI, o *PullOptions) error {
	c := s.config
	want, err := parsePlatform(o.Platform)
	if err == nil && c.OS != "" && c.OS != want.OS {
		err = fmt.Errorf("the image is for %s, not %s", c.OS, want.OS)
	}
	if err == nil && c.Architecture != "" && c.Architecture != want.Architecture {
		// An image of a single architecture has no choice to offer; it is taken
		// unless another one was asked for.
		if o.Platform != "" {
			err = fmt.Errorf("image (linux/%s) does not satisfy required platform (%s)", c.Architecture, o.Platform)
		} else {
			o.log().Warn("the image is for another architecture than this host", "image", u.String(),
				"architecture", c.Architecture, "host", want.Architecture)
		}
	}
	if err == nil && len(c.RootFS.DiffIDs) != len(s.layers) {
		err = fmt.Errorf("the configuration tells of %d layers, and there are %d", len(c.RootFS.DiffIDs), len(s.layers))
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	for i := range s.layers {
		s.layers[i].DiffID = c.RootFS.DiffIDs[i]
	}
	return nil
}

// arch is the architecture that the image's programs are for.
func (s *source) arch() string {
	if s.config.Architecture == "" {
		return runtime.GOARCH
	}
	return s.config.Architecture
}

// DigestError is content that is not what its digest says.
type DigestError struct{ What, Want, Got string }

func (e DigestError) Error() string {
	return fmt.Sprintf("%s has the digest %s, and should have %s", e.What, e.Got, e.Want)
}

func checkDigest(what string, content []byte, want string) error {
	if got := digestOf(content); got != want {
		return DigestError{what, want, got}
	}
	return nil
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// isDigest tells whether s is a SHA-256 digest, which is safe in a file name.
func isDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == ""
}
