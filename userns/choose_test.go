package userns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func capSet(capabilities ...int) (c Caps) {
	for _, n := range capabilities {
		c |= 1 << n
	}
	return c
}

func TestChoose(t *testing.T) {
	mapper := capSet(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETFCAP)
	host := []Extent{{0, 0, 4294967295}}
	tools := ProgramFile{Path: "/usr/bin/newuidmap"}
	user := Caller{UID: 1000, GID: 100, UIDs: host, GIDs: host, NewUIDMap: tools, NewGIDMap: tools,
		SubUIDs: []Range{{100000, 65536}}, SubGIDs: []Range{{200000, 10}, {300000, 65526}}}
	root := Caller{UIDs: host, GIDs: host, Caps: mapper}
	// as in rootless Podman, --userns=auto and Docker's userns-remap
	nested := Caller{UIDs: []Extent{{0, 1000, 1}, {1, 100000, 65536}}, GIDs: []Extent{{0, 1000, 1}, {1, 100000, 65536}}, Caps: mapper}
	swapper := user
	swapper.Caps = mapper
	noFcap := swapper
	noFcap.Caps = capSet(unix.CAP_SETUID, unix.CAP_SETGID)
	small := user
	small.UIDs, small.GIDs = []Extent{{0, 0, 100010}}, []Extent{{0, 0, 200005}}

	for _, c := range []struct {
		name   string
		want   Want
		caller Caller
		uid    string
		gid    string
	}{
		{"own ids", Want{}, user, "single 1000:1000:1", "100:100:1"},
		{"one id as root", Want{Root: true}, user, "single 0:1000:1", "0:100:1"},
		{"one id as image user", Want{As: &IDs{33, 34}}, user, "single 33:1000:1", "34:100:1"},
		{"root's own id", Want{}, root, "single 0:0:1", "0:0:1"},
		{"sub-ids as root", Want{Root: true, Ranges: true}, user, "helper 0:1000:1 1:100000:65536", "0:100:1 1:200000:10 11:300000:65526"},
		{"sub-ids around own", Want{Ranges: true}, user, "helper 0:100000:1000 1000:1000:1 1001:101000:64536", "0:200000:10 10:300000:90 100:100:1 101:300090:65436"},
		{"sub-ids around image user", Want{Ranges: true, As: &IDs{1, 70000}}, user, "helper 0:100000:1 1:1000:1 2:100001:65535", "0:200000:10 10:300000:65526 70000:100:1"},
		{"sub-ids partly visible", Want{Root: true, Ranges: true}, small, "helper 0:1000:1 1:100000:10", "0:100:1 1:200000:5"},
		{"everything as root", Want{Root: true, Ranges: true}, root, "direct 0:0:4294967295", "0:0:4294967295"},
		{"split like the parent", Want{Root: true, Ranges: true}, nested, "direct 0:0:1 1:1:65536", "0:0:1 1:1:65536"},
		{"privileged user keeps ids", Want{Ranges: true}, swapper, "direct 0:0:4294967295", "0:0:4294967295"},
		{"privileged user as root", Want{Root: true, Ranges: true}, swapper, "direct 0:1000:1 1:1:999 1000:0:1 1001:1001:4294966294", "0:100:1 1:1:99 100:0:1 101:101:4294967194"},
		{"without setfcap no root", Want{Ranges: true}, noFcap, "direct 1:1:4294967294", "0:0:4294967295"},
		{"without setfcap as root", Want{Root: true, Ranges: true}, noFcap, "direct 0:1000:1 1:1:999 1001:1001:4294966294", "0:100:1 1:1:99 100:0:1 101:101:4294967194"},
	} {
		m, err := Choose(c.want, c.caller)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff([]string{c.uid, c.gid}, []string{string(m.Method) + " " + short(m.UID), short(m.GID)}); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", c.name, diff)
		}
	}
}

func short(extents []Extent) string {
	var s []string
	for _, e := range extents {
		s = append(s, fmt.Sprintf("%d:%d:%d", e.Inside, e.Outside, e.Count))
	}
	return strings.Join(s, " ")
}

func TestChooseTellsWhatIsMissing(t *testing.T) {
	host := []Extent{{0, 0, 4294967295}}
	full := Caller{UID: 1000, GID: 1000, User: User{Name: "alice"}, Host: "c123", UIDs: host, GIDs: host,
		NewUIDMap: ProgramFile{Path: "/bin/newuidmap"}, NewGIDMap: ProgramFile{Path: "/bin/newgidmap"},
		SubUIDs: []Range{{100000, 1}}, SubGIDs: []Range{{100000, 1}}}
	for _, c := range []struct {
		name   string
		change func(c *Caller)
		want   string
		hint   string
	}{
		{"no uids", func(c *Caller) { c.SubUIDs = nil }, "/etc/subuid has no entry for alice on c123, and getsubids knows none", "--add-subuids 100000-165535 --add-subgids 100000-165535 alice"},
		{"no gids", func(c *Caller) { c.SubGIDs = nil }, "/etc/subgid has no entry for alice on c123, and getsubids knows none", "usermod"},
		{"only own id", func(c *Caller) { c.SubUIDs = []Range{{1000, 1}} }, "the subordinate ids of alice do not exist in this container", "more ids"},
		{"not visible", func(c *Caller) { c.UIDs = []Extent{{0, 0, 65536}} }, "the subordinate ids of alice do not exist in this container", "more ids"},
		{"no newuidmap", func(c *Caller) { c.NewUIDMap.Path = "" }, "run newuidmap: executable file not found in $PATH", "apt-get install uidmap"},
		{"no newgidmap", func(c *Caller) { c.NewGIDMap.Path = "" }, "run newgidmap: executable file not found in $PATH", "dnf install shadow-utils"},
		{"no_new_privs", func(c *Caller) { c.NoNewPrivs = true }, "/bin/newuidmap cannot gain privileges: no_new_privs is set", "no-new-privileges"},
		{"half the capabilities", func(c *Caller) { c.SubUIDs = nil; c.Caps = capSet(unix.CAP_SETUID) }, "/etc/subuid has no entry", ""},
	} {
		caller := full
		c.change(&caller)
		_, err := Choose(Want{Root: true, Ranges: true}, caller)
		var hinted interface{ Hint() string }
		if !errors.As(err, &hinted) || !strings.HasPrefix(err.Error(), c.want) || !strings.Contains(hinted.Hint(), c.hint) {
			t.Errorf("%s: %v (hint %v), want %q, %q", c.name, err, hinted, c.want, c.hint)
		}
	}
}

func TestUsableLeavesOutTwice(t *testing.T) {
	got := usable([]Range{{100, 50}, {140, 20}, {90, 200}}, []Extent{{0, 5, 120}, {130, 0, 1000}}, 110)
	want := []Range{{100, 10}, {111, 9}, {130, 20}, {150, 10}, {90, 10}, {160, 130}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

func TestSubIDFile(t *testing.T) {
	s := Host(nil)
	s.Root = fstest.MapFS{"etc/subuid": {Data: []byte("# comment\nbob:1:2\nalice:100000:65536\nbroken\nalice:x:1\n1000:200000:1\nalice:-5:3\nalice:4294967290:65536\nalice:7:0\n alice:300000:5 \n")}}
	got := s.subIDFile("etc/subuid", 1000, "alice")
	if diff := cmp.Diff([]Range{{100000, 65536}, {200000, 1}, {300000, 5}}, got); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	if got := s.subIDFile("etc/subgid", 1000, "alice"); got != nil {
		t.Errorf("no file: %v", got)
	}
}

func TestSubIDSourceIsNsswitch(t *testing.T) {
	file := &fstest.MapFile{Data: []byte("alice:100000:65536\n")}
	for nsswitch, want := range map[string]uint32{"": 100000, "passwd: files sss\nsubid: files\n": 100000, "subid: sss\n": 7} {
		s := Host(nil)
		s.Root = fstest.MapFS{"etc/subuid": file, "etc/subgid": file, "etc/nsswitch.conf": {Data: []byte(nsswitch)}}
		s.Getsubids = func(uid int, user string) (u, g []Range, err error) { return []Range{{7, 8}}, []Range{{7, 8}}, nil }
		u, g := s.subIDs(1000, "alice")
		if len(u) != 1 || u[0].Start != want || len(g) != 1 || g[0].Start != want {
			t.Errorf("nsswitch %q: %v %v, want from %d", nsswitch, u, g, want)
		}
	}
}

func TestLookupUser(t *testing.T) {
	passwd := fstest.MapFS{"etc/passwd": {Data: []byte("root:x:0:0:root:/root:/bin/bash\nalice:x:1000:100:A,B:/home/alice:/bin/zsh\nodd:x:7:y:::\nhomeless:x:8:8:::\n")}}
	env := map[string]string{"USER": "eve", "HOME": "/home/eve", "SHELL": "/bin/fish"}
	getent := func(ctx context.Context, uid int) (string, error) {
		if uid == 5000 {
			return "net:*:5000:50:Net User:/net/home:/bin/sh", nil
		}
		return "", errors.New("exit status 2")
	}
	for _, c := range []struct {
		uid  int
		env  map[string]string
		want User
	}{
		{1000, env, User{"alice", 1000, 100, "A,B", "/home/alice", "/bin/zsh", "passwd"}},
		{8, env, User{"homeless", 8, 8, "", "/", "", "passwd"}},
		{5000, env, User{"net", 5000, 50, "Net User", "/net/home", "/bin/sh", "getent"}},
		{7, env, User{"eve", 7, 77, "", "/home/eve", "/bin/fish", "made up"}},
		{4294967294, nil, User{"4294967294", 4294967294, 77, "", "/", "", "made up"}},
		{9, map[string]string{"LOGNAME": "log", "HOME": "relative", "SHELL": "/bin/a:b"}, User{"log", 9, 77, "", "/", "", "made up"}},
	} {
		s := System{Root: passwd, Getent: getent, Env: func(n string) string { return c.env[n] }}
		if diff := cmp.Diff(c.want, s.LookupUser(t.Context(), c.uid, 77)); diff != "" {
			t.Errorf("uid %d: want (-), got (+):\n%s", c.uid, diff)
		}
	}
}

// TestStartMapsRanges asks the kernel whether it takes the map that Choose
// made for this caller.
func TestStartMapsRanges(t *testing.T) {
	needUserns(t)
	caller, err := Host(nil).ReadCaller(t.Context(), Want{Ranges: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Want{{Root: true, Ranges: true}, {Ranges: true}, {Ranges: true, As: &IDs{33, 33}}} {
		m, err := Choose(want, caller)
		if err != nil {
			needs(t, "sub-ids: "+err.Error())
		}
		p := childProcess("tell")
		p.Flags, p.Map = unix.CLONE_NEWUSER|unix.CLONE_NEWNS, &m
		got := tell(t, p)
		inside := os.Geteuid()
		if want.Root {
			inside = 0
		}
		if want.As != nil {
			inside = int(want.As.UID)
		}
		if got.UID != inside || got.Setgroups != "allow" || got.UIDMap != strings.ReplaceAll(short(m.UID), ":", " ") {
			t.Errorf("%+v: %+v, want uid %d and map %s", want, got, inside, short(m.UID))
		}
	}
}
