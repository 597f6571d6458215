//go:build amd64 || arm64

package nofile

// Limit is RLIMIT_NOFILE at the start of the program. Max is 0 where it is not
// known.
type Limit struct{ Cur, Max uint64 }

var start = read()

func read() (l Limit) {
	if prlimit(&l) != 0 {
		return Limit{}
	}
	return l
}

// Start gives the limit that the program was started with.
func Start() Limit { return start }

// prlimit is prlimit64(0, RLIMIT_NOFILE, nil, old); 0 is success.
//
//go:noescape
func prlimit(old *Limit) (errno uintptr)
