package userns

// Extent maps Count consecutive ids: Inside in the new user namespace to
// Outside in the caller's. Ids are 32 bits wide.
type Extent struct {
	Inside  uint32 `json:"inside"`
	Outside uint32 `json:"outside"`
	Count   uint32 `json:"count"`
}

// Method is the way by which an id map gets into the kernel.
type Method string

const (
	Single Method = "single" // the new process maps its own uid and gid; always allowed; setgroups is denied
	Direct Method = "direct" // written by the caller, who holds CAP_SETUID and CAP_SETGID (nested, or real root)
	Helper Method = "helper" // written by newuidmap and newgidmap from the caller's subordinate ids
)

// Map is a pair of id maps and the way to install them.
type Map struct {
	Method Method   `json:"method"`
	UID    []Extent `json:"uid"`
	GID    []Extent `json:"gid"`
}
