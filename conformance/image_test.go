package conformance

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// config is the part of an image's configuration that a behaviour is about.
type config struct {
	Entrypoint []string `json:",omitempty"`
	Cmd        []string `json:",omitempty"`
	Env        []string `json:",omitempty"`
	WorkingDir string   `json:",omitempty"`
}

const busybox = "/bin/busybox"

// applets are the names under which busybox stands in the test image.
var applets = []string{"sh", "echo", "env", "id", "true", "false", "printf", "kill", "pwd", "cat", "sleep", "ls", "date",
	"test", "stat", "head", "wc", "sort", "readlink", "tr", "grep", "seq", "umask", "expr"}

// writeArchive makes what docker save would: a small image with busybox.
func writeArchive(t *testing.T, dir, tag string, c config) string {
	t.Helper()
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin", "etc", "root", "srv", "srv/data", "proc", "sys", "dev"} {
		add(tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, program)
	for _, name := range applets {
		add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	add(tar.Header{Name: "bin/script", Typeflag: tar.TypeReg, Mode: 0o755}, []byte("#!/bin/sh\necho script \"$@\"\n"))
	add(tar.Header{Name: "bin/plain", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("not a program\n"))
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	add(tar.Header{Name: "srv/data/file", Typeflag: tar.TypeReg, Mode: 0o640}, []byte("content\n"))
	add(tar.Header{Name: "srv/hard", Typeflag: tar.TypeLink, Mode: 0o640, Linkname: "srv/data/file"}, nil)
	add(tar.Header{Name: "srv/soft", Typeflag: tar.TypeSymlink, Linkname: "/srv/data/file"}, nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image := map[string]any{"architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": c,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}}}
	manifest := []map[string]any{{"Config": "config.json", "RepoTags": []string{tag}, "Layers": []string{"layer.tar"}}}
	dest := filepath.Join(dir, "image.tar")
	out, err := os.Create(dest)
	if err != nil {
		t.Fatal(err)
	}
	w = tar.NewWriter(out)
	for _, f := range []struct {
		name    string
		content []byte
	}{{"layer.tar", layer.Bytes()}, {"config.json", mustJSON(t, image)}, {"manifest.json", mustJSON(t, manifest)}} {
		add(tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644}, f.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return dest
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
