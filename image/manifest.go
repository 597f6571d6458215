package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Media types of manifests (image-spec, media-types.md, and Docker's own).
const (
	typeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	typeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
)

// ociDescriptor points to content (image-spec, descriptor.md).
type ociDescriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

// ociManifest is a manifest or an index, which are told apart by what they
// hold.
type ociManifest struct {
	MediaType string          `json:"mediaType"`
	Config    ociDescriptor   `json:"config"`
	Layers    []ociDescriptor `json:"layers"`
	Manifests []ociDescriptor `json:"manifests"`
}

func (m *ociManifest) isIndex() bool {
	return m.MediaType == typeOCIIndex || m.MediaType == typeDockerList || m.MediaType == "" && m.Manifests != nil
}

func parseManifest(raw []byte) (*ociManifest, error) {
	m := &ociManifest{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	for _, d := range slices.Concat(m.Layers, m.Manifests) {
		if !isDigest(d.Digest) || d.Size < 0 {
			return nil, fmt.Errorf("parse manifest: digest %q with %d bytes", d.Digest, d.Size)
		}
	}
	if m.isIndex() {
		return m, nil
	}
	if !isDigest(m.Config.Digest) || m.Config.Size < 0 {
		return nil, errors.New("parse manifest: it has no configuration; manifests of schema 1 are not read")
	}
	for _, l := range m.Layers {
		if !isLayerType(l.MediaType) {
			return nil, fmt.Errorf("layer %s is of type %q, not a tar archive", l.Digest, l.MediaType)
		}
	}
	return m, nil
}

// isLayerType takes all that may be a tar archive; the compression is found
// out by its magic number.
func isLayerType(t string) bool {
	if strings.HasSuffix(t, "encrypted") {
		return false
	}
	return t == "" || strings.Contains(t, ".tar") || strings.HasSuffix(t, "+tar")
}

// choose picks the manifest of an index that fits the platform best, the first
// of equals.
func choose(index []ociDescriptor, want platform) (ociDescriptor, error) {
	best, rank := ociDescriptor{}, 0
	var have []string
	for _, d := range index {
		if d.Platform != nil && d.Platform.OS == "unknown" {
			continue // an attestation
		}
		if d.Platform != nil {
			have = append(have, d.Platform.String())
		}
		if r := want.fit(d.Platform); r > rank {
			best, rank = d, r
		}
	}
	if rank == 0 {
		return best, fmt.Errorf("there is no image for %s, but for %s", want, list(have))
	}
	return best, nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 8

// resolveManifest follows indexes from a manifest's content down to the
// manifest of one image. get reads the content of a descriptor, verified.
func resolveManifest(raw []byte, want platform, get func(ociDescriptor) ([]byte, error)) (*ociManifest, []byte, error) {
	for range maxIndexDepth {
		m, err := parseManifest(raw)
		if err != nil || !m.isIndex() {
			return m, raw, err
		}
		d, err := choose(m.Manifests, want)
		if err != nil {
			return nil, nil, err
		}
		if raw, err = get(d); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, errors.New("indexes are nested too deeply")
}
