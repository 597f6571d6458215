package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
)

// entry is one command word.
type entry struct {
	name, help string
	new        func() command
}

// commands is the command line's first level, in the order of the help text.
var commands = [...]entry{
	{"run", "Run an image's default program (its runscript).", func() command { return &runCmd{} }},
	{"exec", "Run a command in an image.", func() command { return &execCmd{} }},
	{"shell", "Run a shell in an image.", func() command { return &shellCmd{} }},
	{"test", "Run an image's test script.", func() command { return &testCmd{} }},
	{"pull", "Fetch an image into a file.", func() command { return &pullCmd{} }},
	{"build", "Make an image from another.", func() command { return &buildCmd{} }},
	{"inspect", "Show an image's labels and scripts.", func() command { return &inspectCmd{} }},
	{"plan", "Show as JSON what exec would do.", func() command { return &planCmd{} }},
	{"doctor", "Tell what works on this host, and how to mend what does not.", func() command { return &doctorCmd{} }},
	{"version", "Print the version.", func() command { return &versionCmd{} }},
}

func (a *app) printHelp() {
	fmt.Fprint(a.stdout, "Containers without an administrator: user namespaces and FUSE, nothing else.\n\n"+
		"Usage: coracle [-d|-q|-s|-v] <command> [flags] …\n\nCommands:\n")
	for _, e := range commands {
		fmt.Fprintf(a.stdout, "  %-9s %s\n", e.name, e.help)
	}
	fmt.Fprint(a.stdout, "\nImages: a SIF file, a sandbox directory, a bare squashfs, docker://…, docker-archive:FILE[:TAG],\n"+
		"oci:DIR[:TAG], oci-archive:FILE[:TAG], builtin://hello.\n\n"+
		"Try it: coracle run builtin://hello\nHelp on a command: coracle <command> --help\n\n"+exitHelp)
}

type versionCmd struct{ globals }

// Run prints the bare version, as SingularityCE does.
func (c *versionCmd) Run(_ context.Context, a *app) error {
	_, err := fmt.Fprintln(a.stdout, version())
	return err
}

// version is the module's version from the build information: a tag, or the
// commit that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := strings.TrimPrefix(info.Main.Version, "v"); v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "devel", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = "devel-" + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	return revision + dirty
}
