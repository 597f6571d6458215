package layer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// realistic is an image as a build makes it: a base, and layers that install,
// upgrade, remove and clean up. Every directory has its own entry, and time,
// as the oracle has other ideas of those that do not.
func realistic() [][]file {
	dir := func(name string, mtime int64) file { return file{name: name, mode: 0o755, mtime: mtime} }
	reg := func(name, content string, mtime int64) file {
		return file{name: name, content: content, mode: 0o644, mtime: mtime}
	}
	base := []file{
		dir("./", 100), dir("./etc/", 101), reg("./etc/passwd", "root:x:0:0", 102), reg("./etc/conf", "conf", 102), dir("./usr/", 103), dir("./usr/bin/", 104),
		{name: "./usr/bin/perl", content: "perl", mode: 0o755, mtime: 105}, {name: "./usr/bin/perl5 => ./usr/bin/perl", mode: 0o755, mtime: 105},
		{name: "./usr/bin/su", content: "su", mode: 0o755, mtime: 106}, dir("./usr/lib/", 107), reg("./usr/lib/libc.so.6", random(200_000), 108),
		{name: "./bin -> usr/bin", mode: 0o777, mtime: 109}, {name: "./lib -> usr/lib", mode: 0o777, mtime: 109},
		dir("./var/", 110), dir("./var/cache/", 111), reg("./var/cache/pkg.deb", random(50_000), 112), dir("./var/lib/", 113),
		dir("./var/lib/dpkg/", 114), reg("./var/lib/dpkg/status", "status 1", 115), {name: "./tmp/", mode: 0o1777, mtime: 116},
		dir("./opt/", 117), dir("./opt/app/", 118), reg("./opt/app/a", "a", 119), reg("./opt/app/b", "b", 120), dir("./opt/app/sub/", 121),
		reg("./opt/app/sub/c", "c", 122), dir("./srv/", 123), reg("./srv/"+strings.Repeat("long", 40), "long", 124), reg("./srv/ünï", "u", 125),
	}
	upgrade := []file{
		dir("usr/", 203), dir("usr/bin/", 204), {name: "usr/bin/perl", content: "perl 2", mode: 0o755, mtime: 205},
		{name: "usr/bin/perl5 => usr/bin/perl", mode: 0o755, mtime: 205}, dir("usr/lib/", 207), reg("usr/lib/new.so", "new", 208),
		dir("var/", 210), dir("var/cache/", 211), reg("var/cache/.wh.pkg.deb", "", 212), dir("var/lib/", 213), dir("var/lib/dpkg/", 214),
		reg("var/lib/dpkg/status", "status 2", 215), reg(".wh.srv", "", 216),
	}
	app := []file{
		dir("opt/", 317), dir("opt/app/", 318), reg("opt/app/.wh..wh..opq", "", 319), reg("opt/app/d", "d", 320),
		reg("lib/below-link", "x", 321), // the layer does not mention lib, a link of the base
		dir("etc/", 322), dir("etc/conf/", 323), reg("etc/conf/now-a-directory", "x", 324), reg("tmp", "now a file", 325),
	}
	again := []file{
		dir("srv/", 423), reg("srv/back", "back", 424), {name: "usr/bin/perl-copy => usr/bin/perl", mode: 0o755, mtime: 205},
		dir("var/", 425), reg("var/.wh.cache", "", 426), dir("var/lib/", 427), {name: "tmp/", mode: 0o1777, mtime: 428},
		dir("etc/", 322), dir("usr/lib/", 430), dir("usr/bin/", 431), dir("usr/", 432), dir("./", 433), dir("opt/", 317),
	}
	return [][]file{base, upgrade, app, again}
}

func TestMergeEqualsUmoci(t *testing.T) {
	needs(t, "umoci")
	lists := realistic()
	layout, bundle, ours := filepath.Join(t.TempDir(), "oci"), filepath.Join(t.TempDir(), "bundle"), filepath.Join(t.TempDir(), "ours")
	writeLayout(t, layout, lists)
	out, err := exec.Command("umoci", "unpack", "--rootless", "--image", layout+":latest", bundle).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := imageOfLayers(t, layers(t, lists...))
	if err := Extract(context.Background(), r, ours, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(facts(t, filepath.Join(bundle, "rootfs")), facts(t, ours)); diff != "" {
		t.Error(diff)
	}
}

// writeLayout writes an OCI layout with one image, "latest".
func writeLayout(t *testing.T, dir string, lists [][]file) {
	t.Helper()
	type descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	write := func(name string, b []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(mediaType string, b []byte) descriptor {
		t.Helper()
		d := digestOf(b)
		write("blobs/sha256/"+strings.TrimPrefix(d, "sha256:"), b)
		return descriptor{MediaType: "application/vnd.oci.image." + mediaType, Digest: d, Size: len(b)}
	}
	object := func(v any) []byte {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var layers []descriptor
	var diffIDs []string
	for _, files := range lists {
		b := archive(t, files...)
		diffIDs = append(diffIDs, digestOf(b))
		layers = append(layers, blob("layer.v1.tar+gzip", gzipped(t, b)))
	}
	config := blob("config.v1+json", fmt.Appendf(nil,
		`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":%s}}`, object(diffIDs)))
	manifest := blob("manifest.v1+json", object(map[string]any{"schemaVersion": 2, "config": config, "layers": layers}))
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": "latest"}
	write("index.json", object(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}}))
	write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
}

// One layer is what tar makes of it.
func TestMergeEqualsTar(t *testing.T) {
	needs(t, "tar")
	source := sourceDir(t)
	// tar leaves sockets out.
	if err := os.Remove(filepath.Join(source, "socket")); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "posix"} {
		for _, option := range []string{"", "--sparse"} {
			t.Run(format+option, func(t *testing.T) {
				args := []string{"--format=" + format, "-C", source, "-cf", "-", "."}
				if option == "--sparse" {
					args = append([]string{option}, args...)
				}
				if format == "posix" {
					args = append([]string{"--xattrs"}, args...)
				}
				b, err := exec.Command("tar", args...).Output()
				if err != nil {
					t.Fatal(err)
				}
				copied, ours := t.TempDir(), filepath.Join(t.TempDir(), "ours")
				untar := exec.Command("tar", "--xattrs", "-C", copied, "-xpf", "-")
				untar.Stdin = strings.NewReader(string(b))
				if out, err := untar.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if err := Extract(context.Background(), imageOfLayers(t, []Layer{stored("x", b)}), ours, ExtractOptions{}); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(facts(t, copied), facts(t, ours)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}
