package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/coracle-runtime/coracle/image/layer"
)

// registry is one repository of a registry.
type registry struct {
	ref    name.Reference
	puller *remote.Puller
	blobs  *blobStore
	o      *PullOptions
}

func newRegistry(u URI, o *PullOptions, blobs *blobStore) (*registry, error) {
	var options []name.Option
	if o.NoHTTPS {
		options = append(options, name.Insecure)
	}
	ref, err := name.ParseReference(u.Path, options...)
	if err != nil {
		return nil, err
	}
	puller, err := remote.NewPuller(remote.WithUserAgent("coracle")) // anonymous
	if err != nil {
		return nil, err
	}
	return &registry{ref, puller, blobs, o}, nil
}

// openRegistry reads manifest and configuration: from the blobs where they are
// kept, so that a tag that has not moved costs one HEAD request, and a digest
// none.
func openRegistry(ctx context.Context, u URI, o *PullOptions, blobs *blobStore) (*source, error) {
	want, err := parsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	r, err := newRegistry(u, o, blobs)
	if err != nil {
		return nil, err
	}
	digest, err := r.digest(ctx)
	if err != nil {
		return nil, r.explain(err)
	}
	get := func(d ociDescriptor) ([]byte, error) { return r.manifest(ctx, d.Digest) }
	raw, err := r.manifest(ctx, digest)
	if err != nil {
		return nil, r.explain(err)
	}
	m, raw, err := resolveManifest(raw, want, get)
	if err != nil {
		return nil, r.explain(err)
	}
	s := &source{digest: digestOf(raw)}
	configRaw, err := r.small(ctx, m.Config)
	if err != nil {
		return nil, r.explain(err)
	}
	if s.config, err = parseConfig(configRaw); err != nil {
		return nil, err
	}
	d := newDownloads(ctx, r, m.Layers)
	s.closers = append(s.closers, d)
	for _, l := range m.Layers {
		s.layers = append(s.layers, layer.Layer{
			Name: l.Digest, Size: l.Size,
			Open: func() (io.ReadCloser, error) { return d.open(l.Digest) },
		})
	}
	return s, nil
}

// digest asks what the reference points to now. A registry that cannot be
// reached leaves the last answer standing, so that images that were pulled run
// without a network.
func (r *registry) digest(ctx context.Context) (string, error) {
	if d, ok := r.ref.(name.Digest); ok {
		return d.DigestStr(), nil
	}
	head, err := r.puller.Head(ctx, r.ref)
	if err == nil {
		r.blobs.remember(r.ref.Name(), head.Digest.String())
		return head.Digest.String(), nil
	}
	var refused *transport.Error
	if errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden) {
		return "", err
	}
	// Some registries answer HEAD wrongly; the error that GET gives says more.
	desc, err := r.puller.Get(ctx, r.ref)
	if err == nil {
		digest := digestOf(desc.Manifest)
		r.blobs.remember(r.ref.Name(), digest)
		return digest, r.blobs.write(digest, desc.Manifest)
	}
	if digest, ok := r.blobs.recall(r.ref.Name()); ok && ctx.Err() == nil && !errors.As(err, &refused) {
		r.o.log().Warn("the registry cannot be reached; using what the tag was when it was last pulled",
			"image", r.ref.Name(), "digest", digest, "err", err)
		return digest, nil
	}
	return "", err
}

// manifest returns a manifest or index, whose digest it has checked.
func (r *registry) manifest(ctx context.Context, digest string) ([]byte, error) {
	if !isDigest(digest) {
		return nil, fmt.Errorf("digest %q is not a SHA-256", digest)
	}
	if raw, ok := r.blobs.read(digest); ok {
		return raw, nil
	}
	desc, err := r.puller.Get(ctx, r.ref.Context().Digest(digest))
	if err != nil {
		return nil, err
	}
	if err := checkDigest("the manifest", desc.Manifest, digest); err != nil {
		return nil, err
	}
	return desc.Manifest, r.blobs.write(digest, desc.Manifest)
}

// small returns a blob that fits into memory.
func (r *registry) small(ctx context.Context, d ociDescriptor) ([]byte, error) {
	if raw, ok := r.blobs.read(d.Digest); ok {
		return raw, nil
	}
	if d.Size > maxJSON {
		return nil, errTooLarge(d.Digest, d.Size, maxJSON)
	}
	var raw []byte
	err := r.retry(ctx, func() error {
		body, err := r.blob(ctx, d.Digest)
		if err != nil {
			return err
		}
		defer body.Close()
		if raw, err = io.ReadAll(io.LimitReader(body, maxJSON)); err != nil {
			return err
		}
		return checkDigest("the image's configuration", raw, d.Digest)
	})
	if err != nil {
		return nil, err
	}
	return raw, r.blobs.write(d.Digest, raw)
}

const downloadTries = 3

// retry does it again if the connection breaks in the middle of a body; single
// requests go-containerregistry repeats by itself.
func (r *registry) retry(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if err == nil || try == downloadTries || ctx.Err() != nil || !worthRetrying(err) {
			return err
		}
		r.o.log().Debug("downloading again", "image", r.ref.Name(), "err", err)
		select {
		case <-time.After(time.Duration(try) * r.o.pause()):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// worthRetrying tells whether another try may give another answer.
func worthRetrying(err error) bool {
	var noSpace NoSpaceError
	var refused *transport.Error
	return !errors.As(err, &noSpace) && !errors.As(err, &refused)
}

// blob streams a blob; its reader fails at the end if the digest is wrong.
func (r *registry) blob(ctx context.Context, digest string) (io.ReadCloser, error) {
	l, err := r.puller.Layer(ctx, r.ref.Context().Digest(digest))
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}

// RegistryError is a registry's refusal, with what may help.
type RegistryError struct {
	Ref    string
	Status int // of HTTP
	Err    error
}

func (e RegistryError) Error() string { return e.Err.Error() }
func (e RegistryError) Unwrap() error { return e.Err }

// Hint explains the status.
func (e RegistryError) Hint() string {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "there may be no image of that name, or it is private; check the spelling of " + e.Ref
	case http.StatusNotFound:
		return "check the name and the tag of " + e.Ref
	case http.StatusTooManyRequests:
		return "the registry limits pulls; wait, or pull the image once and share the SIF"
	}
	return "try again; if it goes on, the registry has a problem"
}

// UnreachableError is a registry that does not answer.
type UnreachableError struct {
	Registry string
	Err      error
}

func (e UnreachableError) Error() string { return e.Err.Error() }
func (e UnreachableError) Unwrap() error { return e.Err }

// Hint tells what to look at.
func (e UnreachableError) Hint() string {
	if strings.Contains(e.Err.Error(), "server gave HTTP response to HTTPS client") {
		return "the registry speaks plain HTTP: use --no-https"
	}
	return "check the name " + e.Registry + ", the network, and the variables HTTPS_PROXY and NO_PROXY"
}

// explain gives the ways in which registries fail a hint.
func (r *registry) explain(err error) error {
	var refused *transport.Error
	var network net.Error
	var known interface{ Hint() string }
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &refused):
		return RegistryError{r.ref.Name(), refused.StatusCode, err}
	case errors.As(err, &network):
		return UnreachableError{r.ref.Context().RegistryStr(), err}
	}
	return err
}
