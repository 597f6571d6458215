package native

import (
	"path"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image"
)

// prefetch reads what a plan needs of an image while the rest is decided. Each
// of these files costs a block to decompress, a tenth of the time of a start,
// and other cores can do that.
type prefetch struct {
	root  image.Root
	files map[string]func() ([]byte, error)
	env   func() []script
}

// script is one environment script of the image.
type script struct {
	Name    string `json:"name"` // below /.singularity.d/env
	Content string `json:"content,omitempty"`
}

// maxScripts bounds what travels in a plan, in bytes. Longer ones are read inside.
const maxScripts = 64 << 10

// begin starts reading. The scripts of a directory are left for later: they may
// change until then, and reading them inside costs next to nothing.
func (f *prefetch) begin(root image.Root, dir bool) {
	f.root = root
	f.files = map[string]func() ([]byte, error){}
	for _, name := range []string{"/etc/passwd", "/etc/group"} {
		read := sync.OnceValues(func() ([]byte, error) { return readFollowing(root, name, maxTemplate) })
		f.files[name] = read
		go read()
	}
	if f.env = func() []script { return nil }; !dir {
		f.env = sync.OnceValue(func() []script { return readScripts(root) })
		go f.env()
	}
}

// file returns the content of a file of the image, behind links.
func (f *prefetch) file(name string) ([]byte, error) {
	if read, ok := f.files[name]; ok {
		return read()
	}
	return readFollowing(f.root, name, maxTemplate)
}

func readFollowing(root image.Root, name string, limit int64) ([]byte, error) {
	resolved, err := image.Resolve(root, name)
	if err != nil {
		return nil, err
	}
	return root.ReadFile(resolved, limit)
}

// readScripts returns the environment scripts, those of comments alone without
// their content; nil if they had better be read inside.
func readScripts(root image.Root) []script {
	dir, err := image.Resolve(root, envDir)
	if err != nil {
		return nil
	}
	names, err := root.ReadDir(dir)
	if err != nil {
		return nil
	}
	all, size := []script{}, 0
	for _, name := range names {
		if !isScript(name) {
			continue
		}
		resolved, err := image.Resolve(root, path.Join(dir, name))
		if err != nil {
			return nil
		}
		st, err := root.Lstat(resolved)
		if err != nil || !st.IsRegular() || st.Mode&unix.S_IROTH == 0 {
			return nil // whether it can be read depends on who reads
		}
		content, err := root.ReadFile(resolved, maxScripts)
		if size += len(content); err != nil || size > maxScripts || !utf8.Valid(content) {
			return nil
		}
		if blank(content) {
			content = nil
		}
		all = append(all, script{Name: name, Content: string(content)})
	}
	return all
}

// isScript tells what the pattern *.sh matches.
func isScript(name string) bool { return strings.HasSuffix(name, ".sh") && name[0] != '.' }

// scripts are the environment scripts as they will be found inside; nil if that
// cannot be told from outside.
func (p *planner) scripts() []script {
	for _, m := range p.plan.Mounts {
		if m.Type != "symlink" && (within(m.Target, metaDir) || within(envDir, m.Target)) {
			return nil // a bind of the user's hides some
		}
	}
	return p.early.env()
}
