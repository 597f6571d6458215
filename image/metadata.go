package image

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"strings"
	"time"
)

// scripts are those files of /.singularity.d that are the same in every image.
// Their contract is SingularityCE's: it and `coracle` source env/*.sh in the
// order of names, and other runtimes start the image through actions/*.
//
//go:embed singularity.d
var scripts embed.FS

// metaDir is where an image describes itself.
const metaDir = "/.singularity.d"

// definition is what a definition file's header says of an image that was
// made without one.
type definition struct{ bootstrap, from string }

func (d definition) String() string {
	return fmt.Sprintf("bootstrap: %s\nfrom: %s\n\n", d.bootstrap, d.from)
}

// metadata is what an image says of itself.
type metadata struct {
	def    definition
	config *imageConfig // of an OCI image that this one is made from, else nil
	// ociConfig is what the data object oci-config.json holds, or nil.
	ociConfig []byte
	labels    map[string]string
	arch      string
	created   time.Time
	version   string // of the builder
}

// file is a file, directory or symbolic link to be put into an image.
type file struct {
	path    string // absolute
	mode    fs.FileMode
	content []byte
	target  string // of a link
	replace bool   // what is there already
}

// baseFiles are the directories, files and links that every native image has.
// Those of the image's own win, unless overwrite asks for the metadata to be
// new.
func (m *metadata) baseFiles(overwrite bool) []file {
	dir := func(path string, mode fs.FileMode) file { return file{path: path, mode: fs.ModeDir | mode} }
	link := func(path, target string) file {
		return file{path: path, mode: fs.ModeSymlink | 0o777, target: target, replace: overwrite}
	}
	all := []file{
		dir("/dev", 0o755), dir("/proc", 0o755), dir("/root", 0o700), dir("/var/tmp", fs.ModeSticky|0o777),
		dir("/tmp", fs.ModeSticky|0o777), dir("/etc", 0o755), dir("/sys", 0o755), dir("/home", 0o755),
		{path: "/etc/hosts", mode: 0o644}, {path: "/etc/resolv.conf", mode: 0o644},
		dir(metaDir, 0o755), dir(metaDir+"/actions", 0o755), dir(metaDir+"/env", 0o755), dir(metaDir+"/libs", 0o755),
		link("/singularity", ".singularity.d/runscript"),
		link("/.run", ".singularity.d/actions/run"),
		link("/.exec", ".singularity.d/actions/exec"),
		link("/.test", ".singularity.d/actions/test"),
		link("/.shell", ".singularity.d/actions/shell"),
		link("/environment", ".singularity.d/env/90-environment.sh"),
	}
	return append(all, m.metaFiles(overwrite)...)
}

// metaFiles are the files of /.singularity.d.
func (m *metadata) metaFiles(overwrite bool) []file {
	var all []file
	add := func(name string, mode fs.FileMode, content []byte) {
		all = append(all, file{path: path.Join(metaDir, name), mode: mode, content: content, replace: overwrite})
	}
	// An embedded tree walks in order and without errors.
	_ = fs.WalkDir(scripts, "singularity.d", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := scripts.ReadFile(name)
		add(strings.TrimPrefix(name, "singularity.d/"), 0o755, content)
		return err
	})
	if c := m.config; c != nil {
		add("env/10-docker2singularity.sh", 0o755, []byte(environmentScript(c.Config.Env)))
		add("runscript", 0o755, []byte(runscript(c.entrypoint(), c.Config.Cmd)))
	}
	add("labels.json", 0o644, m.labelsJSON())
	add("Singularity", 0o644, []byte(m.def.String()))
	// These two say how this image came to be, whatever the source says.
	all[len(all)-1].replace, all[len(all)-2].replace = true, true
	return all
}

// allLabels are the image's labels and those that describe the build.
func (m *metadata) allLabels() map[string]string {
	labels := map[string]string{
		"org.label-schema.schema-version":                      "1.0",
		"org.label-schema.build-date":                          buildDate(m.created),
		"org.label-schema.build-arch":                          m.arch,
		"org.label-schema.usage.singularity.version":           m.version,
		"org.label-schema.usage.singularity.deffile.bootstrap": m.def.bootstrap,
		"org.label-schema.usage.singularity.deffile.from":      m.def.from,
	}
	inherited := maps.Clone(m.labels)
	if inherited == nil {
		inherited = map[string]string{}
	}
	maps.Copy(inherited, labels)
	return inherited
}

// buildDate is written as SingularityCE writes it, and stands for when the
// source was made: with the clock's time no two builds would be the same.
func buildDate(t time.Time) string {
	t = t.UTC()
	return fmt.Sprintf("%s_%d_%s_%d_%d:%d:%d_UTC", t.Weekday(), t.Day(), t.Month(), t.Year(), t.Hour(), t.Minute(), t.Second())
}

func (m *metadata) labelsJSON() []byte { return indented(m.allLabels()) }

func indented(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "\t")
	e.SetEscapeHTML(false) // scripts are full of < and &
	if err := e.Encode(v); err != nil {
		panic(err) // maps and structs of strings encode
	}
	return b.Bytes()
}

// inspection is the data object inspect-metadata.json, which `inspect` shows
// without reading the root file system (SingularityCE: pkg/inspect).
type inspection struct {
	Data struct {
		Attributes attributes `json:"attributes"`
	} `json:"data"`
	Type string `json:"type"`
}

type attributes struct {
	Deffile     string            `json:"deffile,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	Helpfile    string            `json:"helpfile,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Runscript   string            `json:"runscript,omitempty"`
	Startscript string            `json:"startscript,omitempty"`
	Test        string            `json:"test,omitempty"`
}

// inspectJSON describes an image with these files in /.singularity.d. Of the
// environment it shows what the image's maker can have written, as
// SingularityCE does.
func (m *metadata) inspectJSON(contents map[string]string) []byte {
	environment := map[string]string{}
	for name, content := range contents {
		dir, base := path.Split(name)
		if dir == metaDir+"/env/" && (strings.HasPrefix(base, "10-docker") || strings.HasSuffix(base, "-environment.sh")) {
			environment[name] = content
		}
	}
	i := inspection{Type: "container"}
	i.Data.Attributes = attributes{
		Deffile: m.def.String(), Environment: environment, Labels: m.allLabels(),
		Helpfile: contents[metaDir+"/runscript.help"], Runscript: contents[metaDir+"/runscript"],
		Startscript: contents[metaDir+"/startscript"], Test: contents[metaDir+"/test"],
	}
	return indented(i)
}
