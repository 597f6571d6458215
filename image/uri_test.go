package image

import (
	"errors"
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("ab", 32)
	for in, want := range map[string]struct {
		uri  URI
		file string
	}{
		"docker://alpine":                            {URI{"docker", "alpine", ""}, "alpine_latest.sif"},
		"docker://sylabsio/lolcow:3.1":               {URI{"docker", "sylabsio/lolcow:3.1", ""}, "lolcow_3.1.sif"},
		"docker://localhost:5000/a/b:t":              {URI{"docker", "localhost:5000/a/b:t", ""}, "b_t.sif"},
		"docker://alpine" + digest:                   {URI{"docker", "alpine" + digest, ""}, "alpine@sha256_" + digest[8:] + ".sif"},
		"docker-archive:lolcow.tar":                  {URI{"docker-archive", "lolcow.tar", ""}, "lolcow_latest.sif"},
		"docker-archive:/a/x.tar.gz:me/repo:1.2":     {URI{"docker-archive", "/a/x.tar.gz", "me/repo:1.2"}, "repo_1.2.sif"},
		"docker-archive:///a/x.tgz":                  {URI{"docker-archive", "/a/x.tgz", ""}, "x_latest.sif"},
		"docker-archive://rel/x.tar":                 {URI{"docker-archive", "rel/x.tar", ""}, "x_latest.sif"},
		"oci:dir":                                    {URI{"oci", "dir", ""}, "dir_latest.sif"},
		"oci:dir/sub:tag":                            {URI{"oci", "dir/sub", "tag"}, "sub_tag.sif"},
		"oci:dir" + digest:                           {URI{"oci", "dir", digest}, "dir_" + digest[8:] + ".sif"},
		"oci-archive:x.tar:v1":                       {URI{"oci-archive", "x.tar", "v1"}, "x_v1.sif"},
		"builtin://hello":                            {URI{"builtin", "hello", ""}, "hello_latest.sif"},
		"docker://ghcr.io/o/r:t" + digest:            {URI{"docker", "ghcr.io/o/r:t" + digest, ""}, "r_t.sif"},
		"oci-archive:dir.with@at/x.tar:name/space:1": {URI{"oci-archive", "dir.with@at/x.tar", "name/space:1"}, "x_name_space:1.sif"},
	} {
		got, err := ParseURI(in)
		if err != nil || got != want.uri {
			t.Errorf("ParseURI(%q) = %+v, %v; want %+v", in, got, err, want.uri)
			continue
		}
		if name := got.FileName(); name != want.file {
			t.Errorf("FileName of %q is %q, want %q", in, name, want.file)
		}
		if again, err := ParseURI(got.String()); err != nil || again != got {
			t.Errorf("%q read back as %+v, %v", got.String(), again, err)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	for _, in := range []string{"", "x", "/a/b", "docker://", "oci:", "docker-archive:", "docker://UPPER/case", "builtin://", "://x", "9a://x"} {
		if u, err := ParseURI(in); err == nil {
			t.Errorf("ParseURI(%q) = %+v", in, u)
		}
	}
	_, err := ParseURI("ftp://host/x.sif")
	var unknown UnknownSchemeError
	if !errors.As(err, &unknown) || unknown.Scheme != "ftp" || !strings.Contains(unknown.Hint(), "docker-archive:") {
		t.Errorf("ftp: %v", err)
	}
}

func TestIsURI(t *testing.T) {
	for in, want := range map[string]bool{
		"docker://a": true, "oci:a": true, "docker-archive:a": true, "foo://bar": true, "library://x": true,
		"a.sif": false, "./oci:a": false, "/x:y": false, "foo:bar": false, "": false, ":": false, "//": false,
	} {
		if got := IsURI(in); got != want {
			t.Errorf("IsURI(%q) = %v", in, got)
		}
	}
}
