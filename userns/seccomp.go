package userns

import (
	"encoding/json"
	"fmt"

	"github.com/moby/profiles/seccomp"
)

// NestingProfile is Docker's own seccomp profile (JSON, for --security-opt
// seccomp=FILE and Kubernetes' Localhost profiles) with what containers inside of
// a container need besides: the narrow alternative to seccomp=unconfined.
//
// The kernel still asks for capabilities in the namespaces concerned; an outer
// container has none in those of the host.
func NestingProfile() ([]byte, error) {
	profile := seccomp.DefaultProfile()
	nesting := &seccomp.Syscall{Comment: "user namespaces, and what is done in them"}
	nesting.Names = []string{"clone", "unshare", "setns", "mount", "umount2", "pivot_root", "sethostname"}
	nesting.Action = "SCMP_ACT_ALLOW"
	profile.Syscalls = append(profile.Syscalls, nesting)
	b, err := json.MarshalIndent(profile, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write seccomp profile: %w", err)
	}
	return append(b, '\n'), nil
}
