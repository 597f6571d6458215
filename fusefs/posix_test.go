package fusefs

import (
	"maps"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// TestOverlayOnTopIsPOSIX runs go-fuse's suite in kernel overlayfs whose lower
// layer is our mount, as a container with a writable layer has it. The suite
// makes its files itself, so it cannot run on the mount alone.
func TestOverlayOnTopIsPOSIX(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/lower/file", "x")
	m := mountImage(t, pack(t, dir, squashfs.WriterOptions{}), Config{Entries: []Entry{{Path: "/made/dir", Mode: unix.S_IFDIR | 0o755}}})
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		if name == "FcntlFlockLocksFile" {
			continue // wants a process's own locks to conflict, which holds over FUSE only
		}
		t.Run(name, func(t *testing.T) {
			posixtest.All[name](t, overlay(t, m.dir)+"/made/dir") // which is empty
		})
	}
}

// overlay mounts kernel overlayfs with a temporary upper layer on a directory.
func overlay(t *testing.T, lower string) string {
	t.Helper()
	upper, root := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", upper, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(upper, unix.MNT_DETACH) })
	for _, d := range []string{"/up", "/work"} {
		if err := unix.Mkdir(upper+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := unix.Mount("overlay", root, "overlay", 0, "userxattr,lowerdir="+lower+",upperdir="+upper+"/up,workdir="+upper+"/work")
	needs(t, "kernel overlayfs in a user namespace", err == nil)
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	return root
}
