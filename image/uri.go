package image

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// The schemes of sources that images are made from.
const (
	SchemeDocker        = "docker"
	SchemeDockerArchive = "docker-archive"
	SchemeOCI           = "oci"
	SchemeOCIArchive    = "oci-archive"
	SchemeBuiltin       = "builtin"
)

const supportedSchemes = "docker://, docker-archive:, oci:, oci-archive: and builtin://"

// URI names the source of an image.
type URI struct {
	Scheme string
	// Path is the path of an archive or layout, the repository with tag or
	// digest of SchemeDocker, or the name of SchemeBuiltin.
	Path string
	// Selector picks one image of an archive or layout: "repo:tag" of a
	// docker-archive, a tag or "@sha256:…" of the OCI ones. It may be empty.
	Selector string
}

// UnknownSchemeError is a URI of a kind that no image can be made from.
type UnknownSchemeError struct{ Scheme string }

func (e UnknownSchemeError) Error() string {
	return fmt.Sprintf("image source %q is not known", e.Scheme+":")
}

// Hint names the kinds that are known.
func (e UnknownSchemeError) Hint() string {
	return "sources are " + supportedSchemes + "; a local image is named by its path"
}

// IsURI tells whether s names a source rather than a local path: it has the
// form scheme://rest, or begins with a scheme that is known.
func IsURI(s string) bool {
	scheme, rest, found := strings.Cut(s, ":")
	if !found || !isScheme(scheme) {
		return false
	}
	return strings.HasPrefix(rest, "//") || knownScheme(scheme)
}

func knownScheme(s string) bool {
	switch s {
	case SchemeDocker, SchemeDockerArchive, SchemeOCI, SchemeOCIArchive, SchemeBuiltin:
		return true
	}
	return false
}

func isScheme(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789+-.", rune(c))) {
			return false
		}
	}
	return s != ""
}

// ParseURI parses the name of a source. Archives and layouts may be written
// with or without slashes after the scheme.
func ParseURI(s string) (URI, error) {
	scheme, rest, found := strings.Cut(s, ":")
	if !found || !IsURI(s) {
		return URI{}, fmt.Errorf("parse image source %q: not of the form scheme:rest", s)
	}
	if !knownScheme(scheme) {
		return URI{}, fmt.Errorf("parse image source %q: %w", s, UnknownSchemeError{scheme})
	}
	u := URI{Scheme: scheme, Path: strings.TrimPrefix(rest, "//")}
	var err error
	switch scheme {
	case SchemeDocker:
		_, err = name.ParseReference(u.Path)
	case SchemeDockerArchive, SchemeOCI, SchemeOCIArchive:
		u.Path, u.Selector = splitSelector(u.Path)
	}
	if err == nil && u.Path == "" {
		err = errors.New("nothing follows the scheme")
	}
	if err != nil {
		return URI{}, fmt.Errorf("parse image source %q: %w", s, err)
	}
	return u, nil
}

// splitSelector cuts at the first colon, as every tool that reads these URIs
// does: a path with a colon in it cannot be written.
func splitSelector(s string) (file, selector string) {
	if file, digest, ok := strings.Cut(s, "@sha256:"); ok && !strings.Contains(file, ":") {
		return file, "@sha256:" + digest
	}
	file, selector, _ = strings.Cut(s, ":")
	return file, selector
}

// String is the form that ParseURI reads.
func (u URI) String() string {
	switch u.Scheme {
	case SchemeDocker, SchemeBuiltin:
		return u.Scheme + "://" + u.Path
	}
	return u.Scheme + ":" + u.From()
}

// From is what a definition file's From header holds: the URI without scheme.
func (u URI) From() string {
	if u.Selector == "" || u.Selector[0] == '@' {
		return u.Path + u.Selector
	}
	return u.Path + ":" + u.Selector
}

// FileName is the name that a pulled image gets when none was asked for: the
// last component of the source's path and its tag, as in lolcow_latest.sif.
func (u URI) FileName() string {
	repo, tag := path.Base(u.Path), "latest"
	switch u.Scheme {
	case SchemeDocker:
		if r, t, ok := strings.Cut(repo, ":"); ok {
			repo, tag = r, t
			if t, _, ok := strings.Cut(tag, "@"); ok { // a tag and a digest
				tag = t
			}
		}
	case SchemeDockerArchive, SchemeOCI, SchemeOCIArchive:
		repo = trimArchiveSuffix(repo)
		if r, t, ok := strings.Cut(path.Base(u.Selector), ":"); ok && u.Scheme == SchemeDockerArchive {
			repo, tag = r, t
		} else if u.Selector != "" {
			tag = strings.TrimPrefix(u.Selector, "@sha256:")
		}
	}
	return repo + "_" + strings.ReplaceAll(tag, "/", "_") + ".sif"
}

func trimArchiveSuffix(file string) string {
	for _, suffix := range []string{".tar", ".tgz", ".tar.gz", ".tar.zst"} {
		if trimmed, ok := strings.CutSuffix(file, suffix); ok && trimmed != "" {
			return trimmed
		}
	}
	return file
}
