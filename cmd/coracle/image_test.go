package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// buildToolbox makes the static program of the test image.
func buildToolbox(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "toolbox")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, "./testdata/toolbox")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, text)
	}
	program, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// writeArchive makes a docker archive of two layers with the toolbox in it, and
// the given image configuration.
func writeArchive(t *testing.T, dest string, toolbox []byte, config map[string]any) {
	t.Helper()
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	lower := tarball(t, func(add func(tar.Header, []byte)) {
		for _, d := range []string{"bin/", "etc/", "srv/", "srv/gone/", "home/"} {
			add(tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: when}, nil)
		}
		add(tar.Header{Name: "bin/toolbox", Typeflag: tar.TypeReg, Mode: 0o755, ModTime: when}, toolbox)
		for _, name := range []string{"echo", "args", "env", "pwd", "id", "cat", "write", "rm", "ls", "stat", "exit", "die",
			"sleep", "hostname", "ready", "background"} {
			add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "toolbox", ModTime: when}, nil)
		}
		add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: when}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
		add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: when}, []byte("root:x:0:\n"))
		add(tar.Header{Name: "srv/lower", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 12, Gid: 34, ModTime: when}, []byte("lower\n"))
		add(tar.Header{Name: "srv/gone/file", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: when}, []byte("gone\n"))
	})
	upper := tarball(t, func(add func(tar.Header, []byte)) {
		add(tar.Header{Name: "srv/.wh.gone", Typeflag: tar.TypeReg, ModTime: when}, nil)
		add(tar.Header{Name: "srv/upper", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: when}, []byte("upper\n"))
	})
	layers, diffIDs := [][]byte{lower, upper}, []string{}
	for _, l := range layers {
		diffIDs = append(diffIDs, fmt.Sprintf("sha256:%x", sha256.Sum256(l)))
	}
	image, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "created": when, "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
	if err != nil {
		t.Fatal(err)
	}
	archive := tarball(t, func(add func(tar.Header, []byte)) {
		add(tar.Header{Name: "0.tar", Mode: 0o644}, lower)
		add(tar.Header{Name: "1.tar", Mode: 0o644}, upper)
		add(tar.Header{Name: "config.json", Mode: 0o644}, image)
		add(tar.Header{Name: "manifest.json", Mode: 0o644},
			[]byte(`[{"Config":"config.json","RepoTags":["toolbox:latest"],"Layers":["0.tar","1.tar"]}]`))
	})
	if err := os.WriteFile(dest, archive, 0o644); err != nil {
		t.Fatal(err)
	}
}

func tarball(t *testing.T, fill func(add func(tar.Header, []byte))) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	fill(func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
