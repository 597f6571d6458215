package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
)

// Directories of ours. Each may be chosen by a variable; none is made here.

// cacheDir holds converted images.
func (a *app) cacheDir() string {
	if dir, ok := a.env.setting("CACHEDIR"); ok && dir != "" {
		return filepath.Join(dir, "cache")
	}
	if dir := a.env.get("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "coracle")
	}
	if home := a.env.get("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".cache", "coracle")
	}
	return filepath.Join(a.tempDir(), fmt.Sprintf("coracle-%d", os.Geteuid()), "cache")
}

// tempDir holds what is gone at the end of a command.
func (a *app) tempDir() string {
	dir, _ := a.env.setting("TMPDIR", "LOCALCACHEDIR")
	return cmp.Or(dir, a.env.get("TMPDIR"), "/tmp")
}
