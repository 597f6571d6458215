package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// binfmtDir is where the kernel shows what runs foreign programs.
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// ArchError is an image for another architecture than the host's, where
// nothing emulates it. The sentence is SingularityCE's.
type ArchError struct{ Image, Host string }

func (e ArchError) Error() string {
	return fmt.Sprintf("the image's architecture (%s) could not run on the host's (%s)", e.Image, e.Host)
}

// Hint names both cures.
func (e ArchError) Hint() string {
	return "pull the image with --arch " + e.Host + ", or ask the administrator to register QEMU for " + e.Image +
		" with binfmt_misc and its flag F (package qemu-user-static)"
}

// checkArch tells whether programs for arch run here: natively, or by an
// interpreter that binfmt_misc opened when it was registered (flag F). Without
// that flag the interpreter would be looked for inside the image.
func checkArch(arch, dir string) error {
	host := runtime.GOARCH
	switch {
	case arch == "" || arch == host,
		arch == "386" && host == "amd64",
		arch == "arm" && host == "arm64":
		return nil
	}
	if dir == "" {
		dir = binfmtDir
	}
	if machine := machineName(arch); machine != "" && emulated(filepath.Join(dir, "qemu-"+machine)) {
		return nil
	}
	return ArchError{arch, host}
}

// machineName is uname's word for a GOARCH, by which QEMU's packages name
// their handlers.
func machineName(arch string) string {
	switch arch {
	case "386":
		return "i386"
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "loong64":
		return "loongarch64"
	case "mipsle":
		return "mipsel"
	case "mips64le":
		return "mips64el"
	case "arm", "mips", "mips64", "ppc64", "ppc64le", "riscv64", "s390x":
		return arch
	}
	return ""
}

// emulated reads one handler's description: the line "enabled" and the line
// "flags: …F…" (Documentation/admin-guide/binfmt-misc.rst).
func emulated(handler string) bool {
	text, err := os.ReadFile(handler)
	if err != nil || !bytes.HasPrefix(text, []byte("enabled\n")) {
		return false
	}
	_, flags, found := bytes.Cut(text, []byte("\nflags: "))
	flags, _, _ = bytes.Cut(flags, []byte("\n"))
	return found && bytes.ContainsRune(flags, 'F')
}
