package userns

import (
	"cmp"
	"os/exec"
	"slices"

	"golang.org/x/sys/unix"
)

// Choose decides on the map of a container. It never looks at uid 0 but at
// capabilities: root in a container may have none, and a user may have them.
//
// With Want.Ranges the errors are *NoSubIDsError and *HelperError; a caller who
// can do with one id asks again without Ranges.
func Choose(want Want, c Caller) (Map, error) {
	inside := IDs{uint32(c.UID), uint32(c.GID)}
	if want.Root {
		inside = IDs{}
	}
	if want.As != nil {
		inside = *want.As
	}
	if !want.Ranges {
		return Map{Single, []Extent{{inside.UID, uint32(c.UID), 1}}, []Extent{{inside.GID, uint32(c.GID), 1}}}, nil
	}
	if c.Caps.writesMaps() {
		return chooseDirect(inside, c), nil
	}
	return chooseHelper(inside, c)
}

// chooseDirect maps every id that is visible here to itself, and swaps the
// caller's with the one he is to have. An extent of the new map has to lie
// within one extent of ours (map_id_range_down in kernel/user_namespace.c),
// hence the same borders. Mapping uid 0 takes CAP_SETFCAP since Linux 5.12.
func chooseDirect(inside IDs, c Caller) Map {
	skipRoot := !c.Caps.Has(unix.CAP_SETFCAP)
	return Map{Direct,
		identity(c.UIDs, inside.UID, uint32(c.UID), skipRoot),
		identity(c.GIDs, inside.GID, uint32(c.GID), false)}
}

func identity(visible []Extent, inside, own uint32, skipRoot bool) []Extent {
	if skipRoot && own == 0 {
		skipRoot = false // to no use without: let the kernel's refusal be explained
	}
	taken := []Range{{own, 1}}
	if skipRoot {
		taken = append(taken, Range{0, 1})
	}
	extents := []Extent{{inside, own, 1}}
	if inside == own {
		extents, taken = nil, taken[1:]
	} else {
		taken = append(taken, Range{inside, 1})
		if holds(visible, inside) && !(skipRoot && inside == 0) {
			extents = append(extents, Extent{own, inside, 1})
		}
	}
	for _, e := range visible {
		for _, r := range without(Range{e.Inside, e.Count}, taken) {
			extents = append(extents, Extent{r.Start, r.Start, r.Count})
		}
	}
	return sorted(extents)
}

func holds(visible []Extent, id uint32) bool {
	return slices.ContainsFunc(visible, func(e Extent) bool { return id >= e.Inside && id-e.Inside < e.Count })
}

// chooseHelper gives the caller the id he wants and fills the ids around it,
// from 0 on, with his subordinate ones.
func chooseHelper(inside IDs, c Caller) (Map, error) {
	uids, gids := usable(c.SubUIDs, c.UIDs, uint32(c.UID)), usable(c.SubGIDs, c.GIDs, uint32(c.GID))
	if len(uids) == 0 || len(gids) == 0 {
		file := "/etc/subuid"
		if len(uids) > 0 {
			file = "/etc/subgid"
		}
		return Map{}, &NoSubIDsError{User: c.User.Name, UID: c.UID, File: file, Host: c.Host, NotVisible: len(c.SubUIDs) > 0 && len(c.SubGIDs) > 0}
	}
	for i, file := range []ProgramFile{c.NewUIDMap, c.NewGIDMap} {
		program := [...]string{"newuidmap", "newgidmap"}[i]
		switch {
		case file.Path == "":
			return Map{}, &HelperError{Program: program, Path: program, Err: exec.ErrNotFound}
		case c.NoNewPrivs:
			return Map{}, &HelperError{Program: program, Path: file.Path, NoNewPrivs: true, Err: unix.EPERM}
		}
	}
	return Map{Helper, around(inside.UID, uint32(c.UID), uids), around(inside.GID, uint32(c.GID), gids)}, nil
}

func around(inside, own uint32, sub []Range) []Extent {
	extents := []Extent{{inside, own, 1}}
	next := uint64(0)
	for _, r := range sub {
		for r.Count > 0 && next <= maxID {
			if next == uint64(inside) {
				next++
				continue
			}
			n := uint64(r.Count)
			if next < uint64(inside) {
				n = min(n, uint64(inside)-next)
			}
			n = min(n, maxID+1-next)
			extents = append(extents, Extent{uint32(next), r.Start, uint32(n)})
			next, r.Start, r.Count = next+n, r.Start+uint32(n), r.Count-uint32(n)
		}
	}
	return sorted(extents)
}

// sorted is for those who read maps; the kernel does not mind the order.
func sorted(extents []Extent) []Extent {
	slices.SortFunc(extents, func(a, b Extent) int { return cmp.Compare(a.Inside, b.Inside) })
	return extents
}

// Count is the number of uids that m maps.
func (m Map) Count() (n uint64) {
	for _, e := range m.UID {
		n += uint64(e.Count)
	}
	return n
}
