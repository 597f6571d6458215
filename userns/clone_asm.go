//go:build amd64 || arm64

package userns

// sharesMemory tells that rawClone may be given CLONE_VM|CLONE_VFORK.
const sharesMemory = true

// rawClone is clone(2) with a stack of nil: the child goes on with the stack of
// its parent, or with its copy.
//
//go:noescape
func rawClone(flags uintptr) (pid, errno uintptr)
