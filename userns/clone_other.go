//go:build !amd64 && !arm64

package userns

import (
	"runtime"
	"syscall"
)

// sharesMemory is false where no assembly keeps the return address apart: the
// child then gets a copy of the parent's memory.
const sharesMemory = false

//go:norace
//go:nosplit
func rawClone(flags uintptr) (pid, errno uintptr) {
	a, b := flags, uintptr(0)
	if runtime.GOARCH == "s390x" { // the kernel swaps the first two arguments there
		a, b = b, a
	}
	pid, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, a, b, 0, 0, 0, 0)
	return pid, uintptr(e)
}
