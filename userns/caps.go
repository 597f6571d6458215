package userns

import "golang.org/x/sys/unix"

// Caps is a set of capabilities, bit n for capability n, as in
// /proc/self/status.
type Caps uint64

// Has tells whether all of these capabilities are in the set.
func (c Caps) Has(capabilities ...int) bool {
	for _, n := range capabilities {
		if c&(1<<n) == 0 {
			return false
		}
	}
	return true
}

// writesMaps tells whether a process with this effective set, in the parent of a
// new user namespace, may write any map of the ids it sees.
func (c Caps) writesMaps() bool { return c.Has(unix.CAP_SETUID, unix.CAP_SETGID) }
