package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/coracle-runtime/coracle/image"
)

type inspectCmd struct {
	longGlobals
	Labels      bool   `short:"l" help:"Show the labels; the default."`
	DefFile     bool   `name:"deffile" short:"d" help:"Show the definition that the image was built from."`
	Runscript   bool   `short:"r" help:"Show the runscript."`
	Startscript bool   `short:"s" help:"Show the startscript."`
	Test        bool   `short:"t" help:"Show the test script."`
	HelpFile    bool   `name:"helpfile" short:"H" help:"Show the help text."`
	OCIConfig   bool   `name:"oci-config" help:"Show the configuration of the OCI image that it was made from."`
	JSON        bool   `short:"j" help:"Print the labels as JSON."`
	Image       string `arg:"" help:"The image."`
}

// Run prints what an image says of itself.
func (c *inspectCmd) Run(_ context.Context, a *app) error {
	img, err := image.OpenWith(c.Image, image.OpenOptions{AnyArch: true})
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer img.Close()
	parts := []struct {
		wanted bool
		read   func() ([]byte, error)
	}{
		{c.DefFile, img.DefFile},
		{c.Runscript, img.Runscript},
		{c.Startscript, func() ([]byte, error) { return img.MetaFile("startscript") }},
		{c.Test, func() ([]byte, error) { return img.MetaFile("test") }},
		{c.HelpFile, func() ([]byte, error) { return img.MetaFile("runscript.help") }},
		{c.OCIConfig, img.OCIConfig},
	}
	printed := false
	for _, p := range parts {
		if !p.wanted {
			continue
		}
		content, err := p.read()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		fmt.Fprintf(a.stdout, "%s\n", content)
		printed = true
	}
	if printed && !c.Labels {
		return nil
	}
	labels, err := img.Labels()
	if err != nil {
		return err
	}
	if c.JSON {
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "\t")
		return e.Encode(map[string]any{"data": map[string]any{"attributes": map[string]any{"labels": labels}}, "type": "container"})
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(a.stdout, "%s: %s\n", name, labels[name])
	}
	return nil
}
