package userns

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkStart measures from before the clone to after the wait. The program
// is busybox true where there is one: static, and nearly free by itself.
func BenchmarkStart(b *testing.B) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		needs(b, "busybox")
	}
	needUserns(b)
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			p := &Process{Exe: busybox, Args: []string{"true"}, Env: os.Environ(), Ambient: true,
				Flags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Map: ownIDs(os.Geteuid(), os.Getegid()), Files: []*os.File{nil, nil, nil}}
			proc, err := p.Start()
			if err != nil {
				b.Fatal(err)
			}
			proc.Wait()
		}
	})
	b.Run("syscall", func(b *testing.B) { // the standard library's way
		for b.Loop() {
			cmd := exec.Command(busybox)
			cmd.Args = []string{"true"}
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}}
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("noNamespaces", func(b *testing.B) {
		for b.Loop() {
			p := &Process{Exe: busybox, Args: []string{"true"}, Files: []*os.File{nil, nil, nil}}
			proc, err := p.Start()
			if err != nil {
				b.Fatal(err)
			}
			proc.Wait()
		}
	})
	for _, c := range [][]string{
		{"bwrap", "--unshare-user", "--bind", "/", "/", busybox, "true"},
		{"unshare", "-Ur", "-m", "--propagation", "unchanged", busybox, "true"},
	} {
		exe, err := exec.LookPath(c[0])
		if err != nil {
			continue
		}
		b.Run(c[0], func(b *testing.B) {
			for b.Loop() {
				if out, err := exec.Command(exe, c[1:]...).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			}
		})
	}
}
