package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// TemporarySandbox is an image unpacked for one run, for hosts that cannot
// mount it.
type TemporarySandbox struct {
	Dir string // the root file system

	outer *lockedDir
}

// Lock is an open directory that marks the sandbox as in use. A process that
// inherits it keeps the sandbox from being cleaned up when its maker is killed
// but programs still run in it.
func (s *TemporarySandbox) Lock() *os.File { return s.outer.lock }

// Close removes the sandbox.
func (s *TemporarySandbox) Close() error { return s.outer.Close() }

// sandboxPrefix starts the names of temporary sandboxes; the user's number
// follows, and something random.
const sandboxPrefix = "coracle-sandbox-"

// TempSandbox unpacks an image to a new directory in parentDir, in parallel.
// Directories that killed processes left there are removed first.
func TempSandbox(ctx context.Context, img *Image, parentDir string, log *slog.Logger) (*TemporarySandbox, error) {
	if err := checkExecutable(parentDir); err != nil {
		return nil, err
	}
	prefix := filepath.Join(parentDir, sandboxPrefix+strconv.Itoa(os.Geteuid())+"-")
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cleanUp(prefix, log)
	r, err := img.Squashfs()
	if err != nil {
		return nil, err
	}
	outer, err := newLockedDir(func() string { return prefix + rand.Text()[:10] })
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", img.Path, err)
	}
	s := &TemporarySandbox{filepath.Join(outer.path, "rootfs"), outer}
	err = os.Mkdir(s.Dir, 0o755)
	if err == nil {
		// Without a log: what only root can make is no loss to a container,
		// which has another /dev.
		err = extract(ctx, r, s.Dir, &BuildOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", img.Path, explainSpace(parentDir, errors.Join(err, s.Close())))
	}
	return s, nil
}

// cleanUp removes what processes that are gone left under names with a prefix.
func cleanUp(prefix string, log *slog.Logger) {
	entries, err := os.ReadDir(filepath.Dir(prefix))
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(filepath.Dir(prefix), e.Name())
		if strings.HasPrefix(path, prefix) && removeUnlocked(path) {
			log.Debug("removed what a killed process left", "dir", path)
		}
	}
}

// NoExecError is a directory for temporary files on a file system that is
// mounted noexec.
type NoExecError struct{ Dir string }

func (e NoExecError) Error() string {
	return fmt.Sprintf("programs cannot run in %s: it is mounted noexec", e.Dir)
}

// Hint names the variable.
func (e NoExecError) Hint() string { return "set TMPDIR to a directory on another file system" }

// checkExecutable tells whether programs may run in dir.
func checkExecutable(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		return NoExecError{dir}
	}
	return nil
}
