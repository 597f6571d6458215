package oci

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMakeSourceMakesParentsAndKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "scratch", "a", "b")
	if err := makeSource(name, 0o1777); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil || st.Mode != unix.S_IFDIR|0o1777 {
		t.Errorf("made with mode %o, %v", st.Mode, err)
	}
	if err := os.Chmod(name, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := makeSource(name, 0o1777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(name, &st); err != nil || st.Mode != unix.S_IFDIR|0o700 {
		t.Errorf("changed what was there to mode %o, %v", st.Mode, err)
	}
	if err := makeSource("", 0o755); err != nil && err != unix.ENOENT {
		t.Error(err)
	}
}
