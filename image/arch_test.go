package image

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestCheckArch(t *testing.T) {
	dir := t.TempDir()
	handler := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	handler("qemu-ppc64le", "enabled\ninterpreter /usr/bin/qemu-ppc64le-static\nflags: POCF\noffset 0\n")
	handler("qemu-s390x", "enabled\ninterpreter /usr/bin/qemu-s390x\nflags: PO\noffset 0\n")
	handler("qemu-riscv64", "disabled\ninterpreter /usr/bin/qemu\nflags: F\noffset 0\n")
	handler("qemu-mipsel", "enabled\ninterpreter /F\nflags: \noffset 0\n")
	for arch, runs := range map[string]bool{
		runtime.GOARCH: true, "": true, "ppc64le": true,
		"s390x": false, "riscv64": false, "mipsle": false, "mips64le": false, "no such": false,
	} {
		err := checkArch(arch, dir)
		if runs != (err == nil) && arch != runtime.GOARCH {
			t.Errorf("%q: %v", arch, err)
		}
		var archErr ArchError
		if err != nil && (!errors.As(err, &archErr) ||
			err.Error() != "the image's architecture ("+arch+") could not run on the host's ("+runtime.GOARCH+")") {
			t.Errorf("%q: %v", arch, err)
		}
	}
}
