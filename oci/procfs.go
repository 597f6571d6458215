package oci

import (
	"bytes"
	"os"
	"strings"
)

// procVisible foretells whether the kernel will mount a new /proc in a user
// namespace: it does where some /proc is seen in full, with nothing mounted
// over a part of it (mount_too_revealing in fs/namespace.c). Outer containers
// mask /proc/kcore, /proc/keys and others.
func procVisible() bool {
	info, err := os.ReadFile("/proc/self/mountinfo")
	return err != nil || showsProc(info)
}

func showsProc(mountinfo []byte) bool {
	type mount struct{ id, parent, point string }
	var procs, all []mount
	for line := range bytes.Lines(mountinfo) {
		fields := strings.Fields(string(line))
		if len(fields) < 6 {
			continue
		}
		m := mount{fields[0], fields[1], fields[4]}
		all = append(all, m)
		_, tail, _ := strings.Cut(string(line), " - ")
		if strings.HasPrefix(tail, "proc ") && fields[3] == "/" {
			procs = append(procs, m)
		}
	}
	for _, p := range procs {
		masked := false
		for _, m := range all {
			// An autofs or binfmt_misc lies on a directory that is always empty.
			if m.parent == p.id && m.point != p.point+"/sys/fs/binfmt_misc" {
				masked = true
			}
		}
		if !masked {
			return true
		}
	}
	return false
}
