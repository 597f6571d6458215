package oci

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/coracle-runtime/coracle/userns"
	"golang.org/x/sys/unix"
)

// withRange maps the caller to root and its subordinate ids above, as
// --fakeroot does.
func withRange(t *testing.T, p *Plan) {
	t.Helper()
	if os.Getuid() == 0 {
		p.IDs = userns.Map{Method: userns.Direct,
			UID: []userns.Extent{{Inside: 0, Outside: 0, Count: 65536}}, GID: []userns.Extent{{Inside: 0, Outside: 0, Count: 65536}}}
		uids, _ := os.ReadFile("/proc/self/uid_map")
		needs(t, "a whole id map to nest in", strings.Contains(string(uids), "4294967295"))
	} else {
		_, err := exec.LookPath("newuidmap")
		needs(t, "newuidmap", err == nil)
		first := subID(t, "/etc/subuid")
		p.IDs = userns.Map{Method: userns.Helper,
			UID: []userns.Extent{{Inside: 0, Outside: uint32(os.Getuid()), Count: 1}, {Inside: 1, Outside: first, Count: 65535}},
			GID: []userns.Extent{{Inside: 0, Outside: uint32(os.Getgid()), Count: 1}, {Inside: 1, Outside: subID(t, "/etc/subgid"), Count: 65535}}}
	}
	p.Process.UID, p.Process.GID = 0, 0
	if p.Root.Image != nil {
		p.Root.Image.Owner = nil
	}
}

// subID reads the first id of the caller's range, by the name in /etc/passwd.
func subID(t *testing.T, file string) uint32 {
	t.Helper()
	passwd, _ := os.ReadFile("/etc/passwd")
	name := ""
	for _, line := range strings.Split(string(passwd), "\n") {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == strconv.Itoa(os.Getuid()) {
			name = f[0]
		}
	}
	f, err := os.Open(file)
	needs(t, file, err == nil)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) == 3 && fields[0] == name {
			first, _ := strconv.ParseUint(fields[1], 10, 32)
			if count, _ := strconv.Atoi(fields[2]); count >= 65535 {
				return uint32(first)
			}
		}
	}
	needs(t, "a range of subordinate ids in "+file, false)
	return 0
}

func TestRangeOfIDs(t *testing.T) {
	onEveryRoot(t, func(t *testing.T, root string) {
		for _, c := range []struct {
			uid, gid int
			keep     bool
		}{{0, 0, true}, {0, 0, false}, {5, 7, false}, {5, 7, true}} {
			p := planFor(t, root, "payload", "look")
			withRange(t, p)
			p.Process.UID, p.Process.GID, p.Process.KeepCaps = c.uid, c.gid, c.keep
			if os.Getuid() != 0 && p.Root.Dir != "" && c.uid != 0 {
				continue // the test's directory is closed to other users
			}
			s, r := look(t, p)
			if s.UID != c.uid || s.GID != c.gid || (s.Status["CapEff"] != "0000000000000000") != c.keep {
				t.Errorf("%+v: ids %d:%d, capabilities %s, %s", c, s.UID, s.GID, s.Status["CapEff"], r.stderr)
			}
			if c.uid == 0 && c.keep && s.Status["CapInh"] != "0000000000000000" {
				t.Errorf("inheritable capabilities %s", s.Status["CapInh"])
			}
		}
	})
}

func TestKilledCallerTakesOtherUsersAlong(t *testing.T) {
	needsFUSE(t)
	p := planFor(t, image(t), "payload", "background", "60000", "/etc/hello", "", "60000")
	withRange(t, p)
	p.Process.UID, p.Process.GID = 5, 7
	m := markedCaller(t, p)
	m.startReady(t)
	m.Process.Kill()
	m.Wait()
	m.gone(t)
}

func TestImageOwnersInARange(t *testing.T) {
	needsFUSE(t)
	p := planFor(t, image(t), "payload", "stat", "/etc/hello")
	withRange(t, p)
	p.Process.KeepCaps = true
	if r := run(t, p); r.stdout != "100644 0 0 6\n" {
		t.Errorf("%q, %s", r.stdout, r.stderr)
	}
	// The overlay's upper layer takes owners, too.
	p.Root.Write = WriteTmpfs
	p.Process.Args = []string{"payload", "chown", "/etc/hello", "33"}
	if r := run(t, p); r.stdout != "100644 33 33 6\n" {
		t.Errorf("chown: %q, %s", r.stdout, r.stderr)
	}
}

func TestUnmappedGroupIsRefused(t *testing.T) {
	needsContainers(t)
	p := planFor(t, sandbox(t), "payload", "look")
	p.Process.GID = 77
	r := run(t, p)
	if r.code != 255 || !strings.Contains(r.stderr, "become group 77: "+unix.EINVAL.Error()) {
		t.Errorf("code %d, %s", r.code, r.stderr)
	}
}
