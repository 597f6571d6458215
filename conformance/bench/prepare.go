package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages make the tree that all rows share: some 325 MB in 12,000 files.
const packages = "python3,python3-numpy,git,perl"

// prepare builds the programs and makes the images that are not there yet.
func (b *bench) prepare() error {
	for _, dir := range []string{b.work, b.home, filepath.Join(b.work, "tmp"), filepath.Join(b.work, "out")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if b.asUser != nil && dir != b.work {
			if err := os.Chown(dir, int(b.asUser.Uid), int(b.asUser.Gid)); err != nil {
				return err
			}
		}
	}
	b.coracle = filepath.Join(b.work, "coracle")
	b.probe = filepath.Join(b.work, "probe")
	if err := goBuild(b.coracle, "./cmd/coracle"); err != nil {
		return err
	}
	if err := goBuild(b.probe, "./conformance/bench/probe"); err != nil {
		return err
	}
	b.rootfs = filepath.Join(b.work, "rootfs")
	b.flat = filepath.Join(b.work, "flat.tar")
	b.archive = filepath.Join(b.work, "archive.tar")
	b.sif = filepath.Join(b.work, "gzip.sif")
	b.sqfs = filepath.Join(b.work, "gzip.sqfs")
	steps := []struct {
		file string
		make func() error
	}{
		{b.rootfs, b.makeRootfs},
		{b.flat, func() error {
			return command("tar", "-C", b.rootfs, "--sort=name", "--numeric-owner", "-cf", b.flat+".part", ".")
		}},
		{b.archive, func() error { return dockerArchive(b.archive+".part", b.flat) }},
		{b.sqfs, func() error {
			return command("mksquashfs", b.rootfs, b.sqfs+".part", "-comp", "gzip", "-noappend", "-no-progress", "-quiet")
		}},
		{b.sif, func() error { return run1(b.oursAsSelf("build", "-q", b.sif+".part", b.sqfs)) }},
	}
	for _, s := range steps {
		if _, err := os.Stat(s.file); err == nil {
			continue
		}
		fmt.Fprintln(os.Stderr, "making", s.file)
		os.RemoveAll(s.file + ".part")
		if err := s.make(); err != nil {
			return err
		}
		if err := os.Rename(s.file+".part", s.file); err != nil {
			return err
		}
	}
	return nil
}

// oursAsSelf runs Coracle as the user of this program, for files in b.work.
func (b *bench) oursAsSelf(args ...string) *exec.Cmd {
	cmd := exec.Command(b.coracle, args...)
	cmd.Env = append(os.Environ(), "HOME="+filepath.Join(b.work, "selfhome"))
	return cmd
}

func (b *bench) makeRootfs() error {
	return command("mmdebstrap", "--quiet", "--variant=minbase", "--include="+packages, "bookworm", b.rootfs+".part")
}

func goBuild(out, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return run1(cmd)
}

func command(name string, args ...string) error { return run1(exec.Command(name, args...)) }

// run1 runs cmd; its output belongs to the error only.
func run1(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// dockerArchive wraps one layer as docker save would.
func dockerArchive(dest, layer string) error {
	in, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, in); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
		"config": map[string]any{"Cmd": []string{"bash"}, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sum.Sum(nil))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{"bench:latest"}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	out, err := os.Create(dest)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	add := func(name string, size int64, r io.Reader) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(w, r)
		return err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := add("layer.tar", st.Size(), in); err != nil {
		return err
	}
	if err := add("config.json", int64(len(config)), bytes.NewReader(config)); err != nil {
		return err
	}
	if err := add("manifest.json", int64(len(manifest)), bytes.NewReader(manifest)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.Close()
}
