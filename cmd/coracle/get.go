package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/coracle-runtime/coracle/image"
	"github.com/coracle-runtime/coracle/image/squashfs"
)

// sourceFlags say where and how an image is got and converted.
type sourceFlags struct {
	DisableCache bool   `keys:"DISABLE_CACHE" help:"Neither read nor write the cache."`
	NoHTTPS      bool   `name:"no-https" aliases:"nohttps" keys:"NO_HTTPS,NOHTTPS" help:"Talk plain HTTP to the registry."`
	Arch         string `keys:"PULL_ARCH" placeholder:"ARCH" help:"Architecture to fetch, such as arm64."`
	Platform     string `keys:"PULL_PLATFORM" placeholder:"OS/ARCH[/VARIANT]" help:"Platform to fetch."`
	Force        bool   `short:"F" keys:"FORCE" help:"Overwrite an existing file."`
	Compression  string `enum:"zstd,gzip" default:"zstd" help:"Compressor of the image: zstd, or gzip for old readers."`
	Level        int    `name:"compression-level" placeholder:"N" help:"The compressor's level."`
	Tmpdir       string `keys:"TMPDIR" hidden:"" help:"Directory for temporary files."`
}

type pullCmd struct {
	globals
	sourceFlags
	Dir   string   `keys:"PULLDIR,PULLFOLDER" placeholder:"DIR" help:"Directory for the file."`
	Name  string   `hidden:"" help:"Name of the file."`
	Words []string `arg:"" name:"[output] uri" help:"File to write, and the image's URI."`
}

// Run fetches an image into a file.
func (c *pullCmd) Run(ctx context.Context, a *app) error {
	if len(c.Words) > 2 {
		return &usageError{"pull", errors.New("accepts a file and a URI")}
	}
	uri, err := image.ParseURI(c.Words[len(c.Words)-1])
	if err != nil {
		return err
	}
	dest := c.Name
	if len(c.Words) == 2 {
		dest = c.Words[0]
	}
	if dest == "" {
		dest = uri.FileName()
	}
	options, bar, err := a.buildOptions(&c.sourceFlags)
	if err != nil {
		return err
	}
	defer bar.done()
	ctx, stop := interruptible(ctx)
	defer stop()
	return image.Pull(ctx, uri, filepath.Join(c.Dir, dest), options)
}

type buildCmd struct {
	globals
	sourceFlags
	Sandbox bool   `short:"s" keys:"SANDBOX" help:"Make a directory that can be written."`
	Dest    string `arg:"" help:"The SIF file, or the directory, to make."`
	Spec    string `arg:"" help:"A URI, a SIF file, a sandbox directory or a squashfs file."`
}

// Run makes an image from another.
func (c *buildCmd) Run(ctx context.Context, a *app) error {
	options, bar, err := a.buildOptions(&c.sourceFlags)
	if err != nil {
		return err
	}
	defer bar.done()
	options.Sandbox, options.Owners = c.Sandbox, os.Geteuid() == 0
	ctx, stop := interruptible(ctx)
	defer stop()
	a.log.Info("Starting build...")
	if err := image.Build(ctx, c.Dest, c.Spec, options); err != nil {
		return err
	}
	bar.done()
	a.log.Info("Build complete: " + c.Dest)
	return nil
}

// fetch returns the path of a URI's image, in the cache, or a temporary one
// that the caller closes.
func (a *app) fetch(ctx context.Context, uri image.URI, disableCache, noHTTPS bool) (path string, temporary *image.TemporaryImage, err error) {
	options, bar, err := a.buildOptions(&sourceFlags{DisableCache: disableCache, NoHTTPS: noHTTPS, Compression: "zstd"})
	if err != nil {
		return "", nil, err
	}
	defer bar.done()
	ctx, stop := interruptible(ctx)
	defer stop()
	if options.Cache != nil {
		path, err = options.Cache.Get(ctx, uri, options.PullOptions)
		return path, nil, err
	}
	if temporary, err = image.Temporary(ctx, uri, options.PullOptions); err != nil {
		return "", nil, err
	}
	return temporary.Path, temporary, nil
}

// buildOptions turns flags and the environment into what package image takes.
func (a *app) buildOptions(f *sourceFlags) (image.BuildOptions, *progress, error) {
	bar := a.newProgress()
	o := image.BuildOptions{Force: f.Force}
	o.PullOptions = image.PullOptions{
		Compression: squashfs.Zstd, Level: f.Level, NoHTTPS: f.NoHTTPS, TempDir: a.tempDir(), Version: version(),
		Self: "/proc/self/exe", Log: a.log,
		Progress: func(e image.Event) { bar.update(e.Phase, e.Done, e.Total) },
	}
	if f.Compression == "gzip" {
		o.Compression = squashfs.Gzip
	}
	if f.Tmpdir != "" {
		o.TempDir = f.Tmpdir
	}
	switch {
	case f.Arch != "" && f.Platform != "":
		return o, bar, errors.New("--arch and --platform say the same thing: give one of them")
	case f.Arch != "":
		o.Platform = "linux/" + f.Arch
	default:
		o.Platform = f.Platform
	}
	if epoch := a.env.get("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return o, bar, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		o.Time = time.Unix(seconds, 0)
	}
	if f.DisableCache {
		return o, bar, nil
	}
	cache, err := image.OpenCache(a.cacheDir())
	if err != nil {
		a.log.Warn(fmt.Sprintf("Cache disabled: %v", err))
		return o, bar, nil
	}
	o.Cache = cache
	return o, bar, nil
}
