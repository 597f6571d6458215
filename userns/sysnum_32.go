//go:build 386 || arm

package userns

import "syscall"

// The calls without 32 cut ids to 16 bits.
const (
	sysSetresuid = syscall.SYS_SETRESUID32
	sysSetresgid = syscall.SYS_SETRESGID32
	sysFcntl     = syscall.SYS_FCNTL64
)
