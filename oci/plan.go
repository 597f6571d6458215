package oci

import (
	"encoding/json"

	"github.com/coracle-runtime/coracle/userns"
)

// Plan is all that is decided about a container before its first process
// exists. It is a plain value: golden tests pin it, coracle plan prints it, and
// x init carries it out in order without deciding anything more.
type Plan struct {
	Root       Root       `json:"root"`
	Mounts     []Mount    `json:"mounts"` // carried out in order, inside the root
	Process    Process    `json:"process"`
	Namespaces Namespaces `json:"namespaces"`
	IDs        userns.Map `json:"ids"`
	Hostname   string     `json:"hostname,omitempty"` // needs Namespaces.UTS
}

// Root says what becomes "/". Exactly one of Image and Dir is set.
type Root struct {
	Image   *Squashfs `json:"image,omitempty"`
	Dir     string    `json:"dir,omitempty"`     // a directory of the host: a sandbox
	Entries []Entry   `json:"entries,omitempty"` // presented on top of what the image holds
	Write   Write     `json:"write,omitempty"`
	TmpfsMB int       `json:"tmpfsMB,omitempty"` // limit of WriteTmpfs in MiB; 0 is the kernel's: half of the memory
}

// Squashfs is a part of a file that holds a SquashFS image.
type Squashfs struct {
	Path   string  `json:"path"`
	Offset int64   `json:"offset"`          // bytes
	Size   int64   `json:"size"`            // bytes
	Owner  *[2]int `json:"owner,omitempty"` // uid and gid that every file is presented with; nil: the image's own
}

// Write says what happens to writes below "/".
type Write string

const (
	WriteNone   Write = ""       // EROFS
	WriteTmpfs  Write = "tmpfs"  // kept in memory, gone at the end
	WriteDirect Write = "direct" // into Root.Dir itself
)

// Entry is a file that the image lacks, or that hides the image's own: a mount
// point or a generated file. Missing parents are made with mode 0755. On an
// image it is served by the FUSE server; on a directory it lies on a tmpfs below
// an overlay. With WriteDirect only entries that exist can be used as mount
// points, and entries with Content are bound over the file that is there.
type Entry struct {
	Path    string `json:"path"`              // absolute, clean, free of symbolic links in the image
	Mode    uint32 `json:"mode"`              // st_mode: a directory, a regular file or a symbolic link
	Content []byte `json:"content,omitempty"` // of a regular file, or a link's target
}

// Mount is one mount below the new root.
//
// With WriteDirect nothing can be presented on top of the directory, so a mount
// whose Target is missing there is left out with SingularityCE's warning:
//
//	Skipping mount SOURCE [TAG]: TARGET doesn't exist in container
type Mount struct {
	Type     string `json:"type"`               // bind, rbind, tmpfs, proc, sysfs, devpts, mqueue, cgroup2, symlink
	Source   string `json:"source,omitempty"`   // a path of the host for bind and rbind
	Target   string `json:"target"`             // absolute; resolved below the root, symbolic links included
	Flags    uint64 `json:"flags,omitempty"`    // MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC; a bind keeps the locked flags of its source, an rbind sets them on the whole tree
	Data     string `json:"data,omitempty"`     // options of the file system
	Optional bool   `json:"optional,omitempty"` // a failure is a debug line, not an error
	Warn     string `json:"warn,omitempty"`     // with Optional: the warning that a failure gives instead, once
	Tag      string `json:"tag,omitempty"`      // what asked for it: binds, home, tmp, cwd, files, kernel; shown when it is skipped
	Symlink  string `json:"symlink,omitempty"`  // Type "symlink": what Target will point to (for a fresh /dev)
	Mkdir    bool   `json:"mkdir,omitempty"`    // make Target first, a directory (0755) or an empty file as Source is; for targets on a mount of this list
	MakeDir  uint32 `json:"makeDir,omitempty"`  // permission bits to make a missing Source directory with first, parents included; for --workdir
	Else     *Mount `json:"else,omitempty"`     // tried when the kernel refuses this one, such as rbind /proc for proc
}

// Process is the payload.
type Process struct {
	Args []string `json:"args"`
	Env  []string `json:"env"`
	Cwd  []string `json:"cwd"` // candidates, tried in order; "/" follows

	// Action, when set, is handed to the resolver given to Init once the root
	// is in place; it may replace Args and Env. Native mode sources the image's
	// environment scripts there.
	Action json.RawMessage `json:"action,omitempty"`

	Umask      int      `json:"umask"`              // -1 leaves the caller's
	KeepCaps   bool     `json:"keepCaps"`           // all capabilities inside the namespace; else none
	Bounding   []string `json:"bounding,omitempty"` // names (CAP_CHOWN) that stay in the bounding set; nil leaves it alone
	NoNewPrivs bool     `json:"noNewPrivs"`
	UID        int      `json:"uid"` // inside
	GID        int      `json:"gid"`
}

// Namespaces are those besides user and mount, which every container has.
type Namespaces struct {
	PID  bool `json:"pid,omitempty"`
	Init bool `json:"init,omitempty"` // with PID: x init stays as PID 1, forwards signals and reaps
	IPC  bool `json:"ipc,omitempty"`
	UTS  bool `json:"uts,omitempty"`
	Net  bool `json:"net,omitempty"` // an empty network: loopback only

	// PIDOptional lets the executor go on without a PID namespace, with Warn
	// printed once, where the outer container masks /proc.
	PIDOptional bool   `json:"pidOptional,omitempty"`
	PIDWarn     string `json:"pidWarn,omitempty"`
}

// IDs is userns.Map under a name that the floors above may use.
type IDs = userns.Map
