package userns

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Want is what a container asks of its id map.
type Want struct {
	Root   bool // the caller is uid 0 and gid 0 inside; else he keeps his ids
	As     *IDs // the caller has these ids inside, in place of Root
	Ranges bool // all ids that can be had, for images with more than one owner
}

// Caller is the part of the facts that a map is chosen from. It is read on the
// way to every container and therefore holds no more than Want asks for.
type Caller struct {
	UID int `json:"uid"` // effective, like the rest
	GID int `json:"gid"`

	// The rest is for Want.Ranges.
	Caps       Caps     `json:"caps"`
	NoNewPrivs bool     `json:"noNewPrivs"`
	UIDs       []Extent `json:"uids"` // /proc/self/uid_map: the ids that exist here
	GIDs       []Extent `json:"gids"`

	// And these for a caller who may not write maps himself.
	User      User        `json:"user"`
	Host      string      `json:"host"`
	SubUIDs   []Range     `json:"subUIDs"`
	SubGIDs   []Range     `json:"subGIDs"`
	NewUIDMap ProgramFile `json:"newuidmap"`
	NewGIDMap ProgramFile `json:"newgidmap"`
}

// ReadCaller reads what Choose needs to know for want: nothing but two ids
// without ranges, and no sub-ids for a caller who may write maps himself.
func (s System) ReadCaller(ctx context.Context, want Want) (Caller, error) {
	c := Caller{UID: os.Geteuid(), GID: os.Getegid()}
	if !want.Ranges {
		return c, nil
	}
	status, err := s.readStatus()
	if err != nil {
		return Caller{}, err
	}
	c.UID, c.GID, c.Caps, c.NoNewPrivs = status.uid, status.gid, status.capEff, status.noNewPrivs
	if c.UIDs, err = s.readMap("proc/self/uid_map"); err != nil {
		return Caller{}, err
	}
	if c.GIDs, err = s.readMap("proc/self/gid_map"); err != nil {
		return Caller{}, err
	}
	if !c.Caps.writesMaps() {
		s.readSubIDs(ctx, &c)
	}
	return c, nil
}

func (s System) readSubIDs(ctx context.Context, c *Caller) {
	c.User = s.LookupUser(ctx, c.UID, c.GID)
	c.Host = s.text("proc/sys/kernel/hostname")
	c.SubUIDs, c.SubGIDs = s.subIDs(c.UID, c.User.Name)
	c.NewUIDMap, c.NewGIDMap = s.Program("newuidmap"), s.Program("newgidmap")
}

// status is /proc/self/status, as far as it matters here.
type status struct {
	uid, gid       int // effective
	groups         []int
	capEff, capBnd Caps
	noNewPrivs     bool
	seccomp        int // 0 none, 1 strict, 2 a filter
}

func (s System) readStatus() (st status, err error) {
	b, err := fs.ReadFile(s.Root, "proc/self/status")
	if err != nil {
		return st, fmt.Errorf("read own status: %w", err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		if len(f) == 0 {
			continue
		}
		last := f[len(f)-1]
		switch key {
		case "Uid":
			st.uid, err = strconv.Atoi(f[min(1, len(f)-1)])
		case "Gid":
			st.gid, err = strconv.Atoi(f[min(1, len(f)-1)])
		case "Groups":
			for _, g := range f {
				n, _ := strconv.Atoi(g)
				st.groups = append(st.groups, n)
			}
		case "CapEff":
			st.capEff, err = parseCaps(last)
		case "CapBnd":
			st.capBnd, err = parseCaps(last)
		case "NoNewPrivs":
			st.noNewPrivs = last == "1"
		case "Seccomp":
			st.seccomp, err = strconv.Atoi(last)
		}
		if err != nil {
			return st, fmt.Errorf("read own status: %s: %w", key, err)
		}
	}
	return st, nil
}

func parseCaps(hex string) (Caps, error) {
	n, err := strconv.ParseUint(hex, 16, 64)
	return Caps(n), err
}

func (s System) readMap(path string) (extents []Extent, err error) {
	b, err := fs.ReadFile(s.Root, path)
	if err != nil {
		return nil, fmt.Errorf("read own id map: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		var e Extent
		if _, err := fmt.Sscan(line, &e.Inside, &e.Outside, &e.Count); err != nil {
			return nil, fmt.Errorf("read own id map: /%s: %q: %w", path, line, err)
		}
		extents = append(extents, e)
	}
	return extents, nil
}
