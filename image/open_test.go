package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/sif"
)

func TestOpenSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "none.sif")
	_, err := Open(path)
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != "could not open image "+path+": no such file or directory" {
		t.Error(err)
	}
	t.Chdir(dir)
	_, err = Open("alpine:3.20")
	var hint interface{ Hint() string }
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "docker://alpine:3.20") {
		t.Error(err)
	}
}

func TestOpenRefusesWhatIsNoImage(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"empty": "", "short": "hs", "text": strings.Repeat("hello\n", 1000), "launch only": "#!/usr/bin/env run-singularity\n",
		"SIF header only": strings.Repeat("\x00", 32) + "SIF_MAGIC\x0001\x00",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		if img, err := Open(path); err == nil {
			t.Errorf("%s: opened as %v", name, img.Format)
		}
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := Open(fifo); done <- err }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("opened a FIFO")
		}
	case <-time.After(10 * time.Second):
		t.Error("waits for a FIFO")
	}
}

func TestOpenFindsExt3(t *testing.T) {
	img := make([]byte, 4096)
	img[1080], img[1081] = 0x53, 0xef
	for _, launch := range []string{"", "#!/usr/bin/env run-singularity\n"} {
		path := filepath.Join(t.TempDir(), "x.img")
		if err := os.WriteFile(path, append([]byte(launch), img...), 0o755); err != nil {
			t.Fatal(err)
		}
		opened, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Close()
		if opened.Format != Ext3 || opened.Offset != int64(len(launch)) || opened.Size != 4096 {
			t.Errorf("%+v", opened)
		}
		var unsupported UnsupportedError
		if _, err := opened.Root(); !errors.As(err, &unsupported) {
			t.Error(err)
		}
	}
}

// squashfsOf makes a squashfs image of a directory with a tool that is not ours.
func squashfsOf(t *testing.T, dir string) []byte {
	t.Helper()
	needs(t, "mksquashfs")
	path := filepath.Join(t.TempDir(), "x.squashfs")
	run(t, "mksquashfs", dir, path, "-quiet", "-no-progress")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestSquashfsRoot(t *testing.T) {
	content := squashfsOf(t, rootTree(t))
	for name, launch := range map[string]string{"bare": "", "launch": "#!/usr/bin/env run-singularity\n"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.sqfs")
			if err := os.WriteFile(path, append([]byte(launch), content...), 0o644); err != nil {
				t.Fatal(err)
			}
			img, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			if img.Format != Squashfs || img.Path != path || img.Size != int64(len(content)) {
				t.Errorf("%+v", img)
			}
			r, err := img.Root()
			if err != nil {
				t.Fatal(err)
			}
			testRoot(t, r)
		})
	}
}

// sifOf writes a SIF with the partition given.
func sifOf(t *testing.T, content []byte, fs sif.FSType, arch string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x.sif"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := sif.NewWriter(f, sif.Options{Launch: sif.LaunchScript})
	if err != nil {
		t.Fatal(err)
	}
	d := sif.Descriptor{Type: sif.DataPartition}
	if err := d.SetPartition(sif.Partition{FS: fs, Type: sif.PartPrimary, Arch: arch}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(d, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func TestOpenSIF(t *testing.T) {
	path := sifOf(t, squashfsOf(t, rootTree(t)), sif.FSSquashfs, runtime.GOARCH)
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if img.Format != SIF || img.Arch != runtime.GOARCH || img.Offset%4096 != 0 || img.Offset == 0 {
		t.Errorf("%+v", img)
	}
	r, err := img.Root()
	if err != nil {
		t.Fatal(err)
	}
	testRoot(t, r)
}

func TestOpenRefusesForeignArchitecture(t *testing.T) {
	path := sifOf(t, []byte("x"), sif.FSSquashfs, "ppc64le")
	binfmt := t.TempDir()
	_, err := OpenWith(path, OpenOptions{BinfmtDir: binfmt})
	want := "could not open image " + path + ": the image's architecture (ppc64le) could not run on the host's (" + runtime.GOARCH + ")"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	handler := "enabled\ninterpreter /usr/bin/qemu-ppc64le-static\nflags: OCF\n"
	if err := os.WriteFile(filepath.Join(binfmt, "qemu-ppc64le"), []byte(handler), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]OpenOptions{"emulated": {BinfmtDir: binfmt}, "any": {AnyArch: true}} {
		img, err := OpenWith(path, o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		img.Close()
	}
}

func TestOpenExplainsWhatItCannotRead(t *testing.T) {
	for fs, want := range map[sif.FSType]string{sif.FSEncryptedSquashfs: "encrypted", sif.FSExt3: "Ext3", sif.FSRaw: "Raw"} {
		img, err := Open(sifOf(t, []byte("x"), fs, runtime.GOARCH))
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		var unsupported UnsupportedError
		if _, err := img.Root(); !errors.As(err, &unsupported) || !strings.Contains(err.Error(), want) || unsupported.Hint() == "" {
			t.Errorf("%v: %v", fs, err)
		}
	}
}

func TestOpenRefusesTruncatedSIF(t *testing.T) {
	path := sifOf(t, squashfsOf(t, rootTree(t)), sif.FSSquashfs, runtime.GOARCH)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{0, 31, 42, 127, 4096, 32176, st.Size() - 1} {
		short := filepath.Join(t.TempDir(), "short.sif")
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(short, content[:size], 0o644); err != nil {
			t.Fatal(err)
		}
		if img, err := Open(short); err == nil {
			t.Errorf("opened the first %d bytes as %v", size, img.Format)
			img.Close()
		}
	}
}

func TestOpenKnowsOCISIF(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x.sif"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := sif.NewWriter(f, sif.Options{Capacity: 9})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(sif.Descriptor{Type: sif.DataOCIRootIndex}, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	img, err := Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	var unsupported UnsupportedError
	if _, err := img.Root(); img.Format != OCISIF || !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "OCI-SIF") {
		t.Errorf("%v: %v", img.Format, err)
	}
}
