package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/coracle-runtime/coracle/image/layer"
)

// dockerImage is an entry of the manifest.json that `docker save` writes. The
// layers are named from the bottom up; in archives of Docker before 25 they
// are ID/layer.tar, later blobs/sha256/….
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func openDockerArchive(ctx context.Context, u URI, o *PullOptions) (_ *source, err error) {
	a, err := openArchive(ctx, u.Path, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	raw, err := readSmall(a, "manifest.json")
	if errors.Is(err, fs.ErrNotExist) {
		if _, _, layoutErr := a.open("index.json"); layoutErr == nil {
			return readLayout(a, u, o)
		}
		return nil, fmt.Errorf("%s is not an archive of `docker save`: it has no manifest.json", u.Path)
	}
	if err != nil {
		return nil, err
	}
	var images []dockerImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, fmt.Errorf("parse manifest.json: %w", err)
	}
	chosen, err := chooseTagged(images, u.Selector)
	if err != nil {
		return nil, err
	}
	return a.source(chosen)
}

func (a *archive) source(d dockerImage) (*source, error) {
	raw, err := readSmall(a, d.Config)
	if err != nil {
		return nil, err
	}
	s := &source{digest: digestOf(raw), closers: []io.Closer{a}}
	// The file is named by its digest, in every writer's archives.
	if hex := strings.TrimSuffix(path.Base(d.Config), ".json"); len(hex) == 64 && isHex(hex) {
		if err := checkDigest("the image's configuration", raw, "sha256:"+hex); err != nil {
			return nil, err
		}
	}
	if s.config, err = parseConfig(raw); err != nil {
		return nil, err
	}
	for _, file := range d.Layers {
		_, size, err := a.open(file)
		if err != nil {
			return nil, err
		}
		s.layers = append(s.layers, layer.Layer{
			Name: file, Size: size,
			Open: func() (io.ReadCloser, error) { r, _, err := a.open(file); return r, err },
		})
	}
	return s, nil
}

// chooseTagged finds the image that a selector names: "repo:tag", "repo" for
// its latest, or "@N" for the Nth. Without a selector there must be one image
// only.
func chooseTagged(images []dockerImage, selector string) (dockerImage, error) {
	if index, ok := strings.CutPrefix(selector, "@"); ok {
		i, err := strconv.Atoi(index)
		if err != nil || i < 0 || i >= len(images) {
			return dockerImage{}, fmt.Errorf("the archive has no image %q, but %d images", selector, len(images))
		}
		return images[i], nil
	}
	if selector == "" {
		if len(images) == 1 {
			return images[0], nil
		}
		return dockerImage{}, severalError{SchemeDockerArchive, tagsOf(images)}
	}
	for _, d := range images {
		for _, tag := range d.RepoTags {
			if tag == selector || sameTag(tag, selector) {
				return d, nil
			}
		}
	}
	return dockerImage{}, fmt.Errorf("the archive has no image %q, but %s", selector, list(tagsOf(images)))
}

// sameTag compares with registry and tag written out: Docker's archives have
// "alpine:3", those of Podman and skopeo "docker.io/library/alpine:3".
func sameTag(a, b string) bool {
	tagA, err := name.NewTag(a)
	if err != nil {
		return false
	}
	tagB, err := name.NewTag(b)
	return err == nil && tagA.Name() == tagB.Name()
}

func tagsOf(images []dockerImage) []string {
	var tags []string
	for i, d := range images {
		if len(d.RepoTags) == 0 {
			tags = append(tags, "@"+strconv.Itoa(i))
		}
		tags = append(tags, d.RepoTags...)
	}
	return tags
}

// severalError is a source of several images of which none was chosen.
type severalError struct {
	scheme string
	names  []string
}

func (e severalError) Error() string {
	if len(e.names) == 0 {
		return "there is no image in it"
	}
	return "there are several images in it: " + list(e.names)
}

// Hint shows how one is chosen.
func (e severalError) Hint() string {
	if len(e.names) == 0 {
		return "the archive may have been cut off; write it again"
	}
	name := ":" + e.names[0]
	if e.scheme != SchemeDockerArchive && e.names[0][0] == '@' {
		name = e.names[0]
	}
	return "name one after the path: " + e.scheme + ":PATH" + name
}
