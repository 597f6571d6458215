package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/coracle-runtime/coracle/image/layer"
)

// Annotations by which an index names images: the specification's, and
// containerd's, which Docker's archives have as well.
const (
	annotationRefName        = "org.opencontainers.image.ref.name"
	annotationContainerdName = "io.containerd.image.name"
)

// openLayout opens an image in an OCI layout, a directory or an archive of it
// (image-spec, image-layout.md).
func openLayout(ctx context.Context, u URI, o *PullOptions) (*source, error) {
	var s store
	var err error
	if u.Scheme == SchemeOCI {
		s, err = openDirectory(u.Path)
	} else {
		s, err = openArchive(ctx, u.Path, o)
	}
	if err != nil {
		return nil, err
	}
	src, err := readLayout(s, u, o)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return src, nil
}

// readLayout finds the image that the selector names: a tag, "@sha256:…", or
// "" where there is only one.
func readLayout(s store, u URI, o *PullOptions) (*source, error) {
	want, err := parsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	raw, err := readSmall(s, "index.json")
	if err != nil {
		return nil, err
	}
	var index ociManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("parse index.json: %w", err)
	}
	top, err := selectManifest(index.Manifests, u, want)
	if err != nil {
		return nil, err
	}
	get := func(d ociDescriptor) ([]byte, error) { return readBlob(s, d.Digest) }
	if raw, err = get(top); err != nil {
		return nil, err
	}
	m, raw, err := resolveManifest(raw, want, get)
	if err != nil {
		return nil, err
	}
	return blobSource(m, raw, s)
}

func blobSource(m *ociManifest, raw []byte, s store) (*source, error) {
	configRaw, err := readBlob(s, m.Config.Digest)
	if err != nil {
		return nil, err
	}
	src := &source{digest: digestOf(raw), closers: []io.Closer{s}}
	if src.config, err = parseConfig(configRaw); err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		name := blobName(d.Digest)
		size, err := sizeOf(s, name)
		if err == nil && size != d.Size {
			err = fmt.Errorf("layer %s has %d bytes, and should have %d", d.Digest, size, d.Size)
		}
		if err != nil {
			return nil, err
		}
		src.layers = append(src.layers, layer.Layer{
			Name: d.Digest, Size: d.Size,
			Open: func() (io.ReadCloser, error) { r, _, err := s.open(name); return r, err },
		})
	}
	return src, nil
}

func sizeOf(s store, name string) (int64, error) {
	r, size, err := s.open(name)
	if err != nil {
		return 0, err
	}
	return size, r.Close()
}

func blobName(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

// readBlob reads a small blob and holds it to its digest.
func readBlob(s store, digest string) ([]byte, error) {
	if !isDigest(digest) {
		return nil, fmt.Errorf("digest %q is not a SHA-256", digest)
	}
	raw, err := readSmall(s, blobName(digest))
	if err != nil {
		return nil, err
	}
	return raw, checkDigest("a blob", raw, digest)
}

// selectManifest finds what a selector names in a layout's index.
func selectManifest(index []ociDescriptor, u URI, want platform) (ociDescriptor, error) {
	selector := u.Selector
	digest, byDigest := strings.CutPrefix(selector, "@")
	var named []ociDescriptor
	var names []string
	for _, d := range index {
		ref, full := d.Annotations[annotationRefName], d.Annotations[annotationContainerdName]
		switch {
		case byDigest && d.Digest == digest,
			!byDigest && selector != "" && (ref == selector || full != "" && (full == selector || sameTag(full, selector))):
			named = append(named, d)
		}
		names = append(names, firstOf(full, ref, "@"+d.Digest))
	}
	switch {
	case selector != "" && len(named) == 0:
		return ociDescriptor{}, fmt.Errorf("there is no image %q in it, but %s", selector, list(names))
	case selector != "":
		return choose(named, want)
	case len(index) == 1:
		return index[0], nil
	case len(index) > 1 && sameImage(index):
		return choose(index, want)
	}
	return ociDescriptor{}, severalError{u.Scheme, names}
}

// sameImage tells whether an index lists one image for several platforms.
func sameImage(index []ociDescriptor) bool {
	for _, d := range index {
		if d.Platform == nil || d.Annotations[annotationRefName] != index[0].Annotations[annotationRefName] {
			return false
		}
	}
	return true
}

func firstOf(names ...string) string {
	for _, n := range names {
		if n != "" {
			return n
		}
	}
	return ""
}
