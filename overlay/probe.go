package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Probe tells whether dir can hold an upper layer: it mounts a small overlay
// there and does what some filesystems fail at only later (NFS, Lustre, GPFS
// mount, and then give ESTALE or refuse whiteouts). It leaves nothing behind.
//
// Runs in: a process that holds CAP_SYS_ADMIN in its own mount namespace.
func Probe(dir string) (err error) {
	base, err := os.MkdirTemp(dir, ".overlay-probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	at := func(name string) string { return filepath.Join(base, name) }
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"removed", "changed"} {
		if err := os.WriteFile(filepath.Join(at("lower"), name), []byte(name), 0o644); err != nil {
			return err
		}
	}
	if err := Mount(at("merged"), Options{Lower: []string{at("lower")}, Upper: at("upper"), Work: at("work")}); err != nil {
		return err
	}
	defer func() {
		// overlayfs leaves a directory in work that root alone may enter.
		err = errors.Join(err, unix.Unmount(at("merged"), unix.MNT_DETACH), os.Chmod(filepath.Join(at("work"), "work"), 0o700))
	}()
	return use(at("merged"))
}

// use makes, changes, renames and removes a file through the overlay.
func use(merged string) error {
	at := func(name string) string { return filepath.Join(merged, name) }
	for _, step := range []func() error{
		func() error { return os.Remove(at("removed")) },
		func() error { return os.WriteFile(at("changed"), []byte("new"), 0o644) },
		func() error { return os.Rename(at("changed"), at("renamed")) },
		func() error { return os.Chmod(at("renamed"), 0o600) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("use overlay: %w", err)
		}
	}
	b, err := os.ReadFile(at("renamed"))
	if err != nil || string(b) != "new" {
		return fmt.Errorf("use overlay: read back %q, %v", b, err)
	}
	if _, err := os.Lstat(at("removed")); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("use overlay: a removed file is still there (%v)", err)
	}
	return nil
}
