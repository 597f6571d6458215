package native

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image"
)

// tree is a file system for tests, of an image or a host. A name that ends in
// a slash is a directory; content that starts with "-> " is a link's target,
// and "dev" alone is a device. Parents need not be named.
type tree map[string]string

var _ image.Root = tree{}

func (t tree) Lstat(name string) (image.Stat, error) {
	for parent := path.Dir(name); parent != "/"; parent = path.Dir(parent) {
		if content, ok := t[parent]; ok {
			err := error(unix.ENOTDIR)
			if strings.HasPrefix(content, "-> ") {
				err = unix.ELOOP // callers resolve links first
			}
			return image.Stat{}, &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
	}
	content, ok := t[name]
	switch {
	case ok && strings.HasPrefix(content, "-> "):
		return image.Stat{Mode: unix.S_IFLNK | 0o777}, nil
	case ok && content == "dev":
		return image.Stat{Mode: unix.S_IFCHR | 0o666}, nil
	case ok:
		return image.Stat{Mode: unix.S_IFREG | 0o644, Size: int64(len(content))}, nil
	case t.isDir(name):
		return image.Stat{Mode: unix.S_IFDIR | 0o755}, nil
	}
	return image.Stat{}, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
}

func (t tree) isDir(name string) bool {
	if name == "/" {
		return true
	}
	for n := range t {
		if strings.HasPrefix(n, name+"/") {
			return true
		}
	}
	return false
}

func (t tree) ReadFile(name string, limit int64) ([]byte, error) {
	if st, err := t.Lstat(name); err != nil {
		return nil, err
	} else if !st.IsRegular() || st.Size > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	return []byte(t[name]), nil
}

func (t tree) Readlink(name string) (string, error) {
	target, ok := strings.CutPrefix(t[name], "-> ")
	if !ok {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: unix.EINVAL}
	}
	return target, nil
}

func (t tree) ReadDir(name string) ([]string, error) {
	names := map[string]bool{}
	for n := range t {
		if rest, ok := strings.CutPrefix(n, strings.TrimSuffix(name, "/")+"/"); ok && rest != "" {
			first, _, _ := strings.Cut(rest, "/")
			names[first] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// with returns a copy with some files more.
func (t tree) with(more tree) tree {
	all := maps.Clone(t)
	maps.Copy(all, more)
	return all
}

func (t tree) without(names ...string) tree {
	all := maps.Clone(t)
	for _, n := range names {
		delete(all, n)
	}
	return all
}

// debian is an image as they mostly are: with merged /usr, and a link for the
// time zone.
var debian = tree{
	"/etc/passwd":                    "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n",
	"/etc/group":                     "root:x:0:\ndaemon:x:1:\nusers:x:100:\n",
	"/etc/hosts":                     "",
	"/etc/resolv.conf":               "",
	"/etc/localtime":                 "-> /usr/share/zoneinfo/Etc/UTC",
	"/usr/share/zoneinfo/Etc/UTC":    "TZif",
	"/bin":                           "-> usr/bin",
	"/lib":                           "-> usr/lib",
	"/usr/bin/bash":                  "elf",
	"/usr/lib/":                      "",
	"/var/run":                       "-> /run",
	"/var/tmp/":                      "",
	"/run/":                          "",
	"/tmp/":                          "",
	"/proc/":                         "",
	"/sys/":                          "",
	"/dev/":                          "",
	"/home/":                         "",
	"/root/":                         "",
	"/opt/":                          "",
	"/mnt/":                          "",
	"/.singularity.d/env/99-base.sh": "",
}

// busybox is an image with hardly anything.
var busybox = tree{"/bin/busybox": "elf"}

// laptop is a host.
var laptop = tree{
	"/etc/hosts":                        "127.0.0.1 localhost laptop\n",
	"/etc/localtime":                    "-> ../usr/share/zoneinfo/Europe/Berlin",
	"/usr/share/zoneinfo/Europe/Berlin": "TZif2",
	"/etc/resolv.conf":                  "nameserver 192.0.2.1\n",
	"/home/alice/project/":              "",
	"/home/alice/data":                  "-> /data/alice",
	"/data/alice/run1/":                 "",
	"/data/set.csv":                     "1,2,3",
	"/scratch/job/":                     "",
	"/gpfs/work/alice/":                 "",
	"/work":                             "-> /gpfs/work",
	"/usr/lib/":                         "",
	"/bin":                              "-> usr/bin",
	"/usr/bin/":                         "",
	"/tmp/":                             "",
	"/var/tmp/":                         "",
	"/proc/":                            "",
	"/sys/":                             "",
	"/dev/null":                         "dev",
	"/dev/zero":                         "dev",
	"/dev/full":                         "dev",
	"/dev/random":                       "dev",
	"/dev/urandom":                      "dev",
	"/dev/tty":                          "dev",
	"/dev/fuse":                         "dev",
	"/dev/nvidia0":                      "dev",
	"/dev/pts/3":                        "dev",
}

func TestTreeIsARoot(t *testing.T) {
	got, err := image.Resolve(laptop, "/home/alice/data/run1/new")
	if err != nil || got != "/data/alice/run1/new" {
		t.Errorf("got %q, %v", got, err)
	}
}
