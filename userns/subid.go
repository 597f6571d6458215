package userns

import (
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Range is Count consecutive ids from Start on.
type Range struct {
	Start uint32 `json:"start"`
	Count uint32 `json:"count"`
}

// end is the first id behind the range.
func (r Range) end() uint64 { return uint64(r.Start) + uint64(r.Count) }

// maxID is the last id that may be mapped; 4294967295 means "no id".
const maxID = 1<<32 - 2

// appendRange leaves out what is no range of ids.
func appendRange(to []Range, start, count int64) []Range {
	if start < 0 || count <= 0 || start > maxID || start+count > maxID+1 {
		return to
	}
	return append(to, Range{uint32(start), uint32(count)})
}

// subIDs are the subordinate ids of a user. Where nsswitch.conf names another
// source than files, newuidmap honours that one and so do we; else the files
// come first, because getsubids costs four processes.
func (s System) subIDs(uid int, user string) (u, g []Range) {
	filesDecide := true
	for line := range strings.SplitSeq(s.text("etc/nsswitch.conf"), "\n") {
		if sources, ok := strings.CutPrefix(strings.TrimSpace(line), "subid:"); ok {
			filesDecide = strings.TrimSpace(sources) == "files"
		}
	}
	if filesDecide {
		u, g = s.subIDFile("etc/subuid", uid, user), s.subIDFile("etc/subgid", uid, user)
	}
	if (len(u) == 0 || len(g) == 0) && s.Getsubids != nil {
		if nu, ng, err := s.Getsubids(uid, user); err == nil && len(nu) > 0 && len(ng) > 0 {
			u, g = nu, ng
		}
	}
	return u, g
}

// subIDFile reads subuid(5) or subgid(5), where a user stands by name or by
// number, as often as the administrator likes. Lines that are not understood
// are somebody else's; they do not make ours useless (which is why the parsers
// of rootlesskit and podman are not used here: they give up on the first).
func (s System) subIDFile(path string, uid int, user string) (ranges []Range) {
	b, err := fs.ReadFile(s.Root, path)
	if err != nil {
		return nil
	}
	number := strconv.Itoa(uid)
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != number && (user == "" || f[0] != user) {
			continue
		}
		start, err1 := strconv.ParseInt(f[1], 10, 64)
		count, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 == nil && err2 == nil {
			ranges = appendRange(ranges, start, count)
		}
	}
	return ranges
}

// usable are the parts of ranges that lie among the visible ids, without own
// and without what an earlier range has already: the kernel refuses a map with
// an id that is not there or twice.
func usable(ranges []Range, visible []Extent, own uint32) []Range {
	var out []Range
	for _, r := range ranges {
		for _, e := range visible {
			start := max(uint64(r.Start), uint64(e.Inside))
			end := min(r.end(), uint64(e.Inside)+uint64(e.Count))
			if start < end {
				out = append(out, without(Range{uint32(start), uint32(end - start)}, append(slices.Clone(out), Range{own, 1}))...)
			}
		}
	}
	return out
}

// without cuts taken out of r.
func without(r Range, taken []Range) []Range {
	rest := []Range{r}
	for _, t := range taken {
		var next []Range
		for _, r := range rest {
			if t.end() <= uint64(r.Start) || r.end() <= uint64(t.Start) {
				next = append(next, r)
				continue
			}
			if r.Start < t.Start {
				next = append(next, Range{r.Start, t.Start - r.Start})
			}
			if t.end() < r.end() {
				next = append(next, Range{uint32(t.end()), uint32(r.end() - t.end())})
			}
		}
		rest = next
	}
	return rest
}
