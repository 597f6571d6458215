package coracle

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/coracle-runtime/coracle"

// floors is policy: which of our packages each top-level folder may import
// besides itself. It is not changed to fix a build.
var floors = map[string][]string{
	"cmd":         {"native", "oci", "image", "overlay", "fusefs", "userns"},
	"native":      {"oci", "image", "overlay"},
	"oci":         {"image", "overlay", "fusefs", "userns"},
	"overlay":     {"fusefs", "image"},
	"fusefs":      {"image"},
	"image":       {},
	"userns":      {},
	"conformance": {},
}

// owners lists the folders that may import a dependency outside of tests. One
// that is not listed here is free.
var owners = map[string][]string{
	"github.com/alecthomas/kong":             {"cmd"},
	"github.com/lmittmann/tint":              {"cmd"},
	"github.com/google/go-containerregistry": {"image"},
	"github.com/sylabs":                      {"image"},
	"github.com/hanwen/go-fuse":              {"fusefs", "overlay"},
	"github.com/opencontainers/runtime-spec": {"oci"},
	"github.com/rootless-containers":         {"userns"},
	"go.podman.io/storage":                   {"userns"},
	"github.com/containers/storage":          {"userns"},
	"github.com/sirupsen/logrus":             {"userns"},
	"mvdan.cc/sh":                            {"native"},
	"github.com/klauspost/compress":          {"image"},
	"github.com/pierrec/lz4":                 {"image"},
	"github.com/anchore/go-lzo":              {"image"},
	"github.com/mikelolasagasti/xz":          {"image"},
}

// outside lists what a folder may never reach, with the reason.
var outside = map[string]string{
	"os/user": "it asks NSS or cgo; read passwd entries where they are needed",
	"plugin":  "the binary is static",
}

type source struct {
	file, folder, pkg string // pkg is the directory, slash separated, "" for the root
	test              bool
	syntax            *ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || p != "." && strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		syntax, err := parser.ParseFile(fset, p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		slash := filepath.ToSlash(p)
		pkg := path.Dir(slash)
		folder, _, _ := strings.Cut(pkg, "/")
		all = append(all, source{p, folder, pkg, strings.HasSuffix(p, "_test.go"), syntax})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFloors(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg == "." {
			continue
		}
		allowed, known := floors[s.folder]
		if !known {
			t.Errorf("%s: %q is not one of the house's folders", s.file, s.folder)
			continue
		}
		for _, spec := range s.syntax.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if rest, ours := strings.CutPrefix(imported, module+"/"); ours {
				folder, _, _ := strings.Cut(rest, "/")
				if folder != s.folder && !contains(allowed, folder) && !s.test {
					t.Errorf("%s imports %s: %s stands on %v only", s.file, rest, s.folder, allowed)
				}
				if s.folder == "conformance" {
					t.Errorf("%s imports %s: conformance drives binaries and imports nothing of ours", s.file, rest)
				}
				continue
			}
			if s.test {
				continue
			}
			if reason, forbidden := outside[imported]; forbidden {
				t.Errorf("%s imports %s: %s", s.file, imported, reason)
			}
			for dependency, folders := range owners {
				if (imported == dependency || strings.HasPrefix(imported, dependency+"/")) && !contains(folders, s.folder) {
					t.Errorf("%s imports %s, which belongs to %v", s.file, imported, folders)
				}
			}
		}
	}
}

func TestFusefsKnowsPureFormatsOnly(t *testing.T) {
	for _, s := range sources(t) {
		for _, spec := range s.syntax.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if s.folder == "fusefs" && imported == module+"/image" {
				t.Errorf("%s imports image: fusefs serves formats (image/squashfs, …) and knows no images", s.file)
			}
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	comments := map[string][]string{}
	for _, s := range sources(t) {
		if s.test || s.pkg == "." {
			continue
		}
		if s.syntax.Doc != nil {
			comments[s.pkg] = append(comments[s.pkg], s.file)
		} else if comments[s.pkg] == nil {
			comments[s.pkg] = []string{}
		}
	}
	for pkg, files := range comments {
		if len(files) != 1 {
			t.Errorf("package %s has %d package comments (%v), want one", pkg, len(files), files)
		}
	}
}

func TestTopLevel(t *testing.T) {
	agreed := strings.Fields("cmd userns fusefs overlay oci native image conformance " +
		"go.mod go.sum Justfile README.md LICENSE floors_test.go")
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !contains(agreed, e.Name()) && !ignored(e.Name()) {
			t.Errorf("%s is not in the agreed top level", e.Name())
		}
	}
}

// ignored tells build products, which .gitignore lists.
func ignored(name string) bool {
	return name == "coracle" || name == "dist" || strings.HasSuffix(name, ".sif") ||
		strings.HasSuffix(name, ".test") || strings.HasSuffix(name, ".prof")
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}
