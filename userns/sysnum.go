//go:build !386 && !arm

package userns

import "syscall"

const (
	sysSetresuid = syscall.SYS_SETRESUID
	sysSetresgid = syscall.SYS_SETRESGID
	sysFcntl     = syscall.SYS_FCNTL
)
