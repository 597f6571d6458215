package image

import (
	"fmt"
	"runtime"
	"strings"
)

// platform is what an image's programs need to run (image-spec,
// image-index.md).
type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// parsePlatform reads "linux/arm64/v8", "arm64" or "", which is the host's.
// Other names of architectures become Go's, as registries use them.
func parsePlatform(s string) (platform, error) {
	if s == "" {
		return platform{"linux", runtime.GOARCH, ""}, nil
	}
	parts := strings.Split(strings.ToLower(s), "/")
	if parts[0] == "linux" {
		parts = parts[1:]
	} else if len(parts) == 2 && strings.Trim(parts[1], "v0123456789") != "" {
		parts = nil // another operating system
	}
	if len(parts) == 0 || len(parts) > 2 || parts[0] == "" {
		return platform{}, fmt.Errorf("platform %q is not of the form linux/ARCHITECTURE or linux/ARCHITECTURE/VARIANT", s)
	}
	p := platform{OS: "linux", Architecture: parts[0]}
	if len(parts) == 2 {
		p.Variant = parts[1]
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "i386", "i686":
		p.Architecture = "386"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	if p.Architecture == "arm64" && (p.Variant == "v8" || p.Variant == "8") {
		p.Variant = "" // what arm64 means
	}
	if p.Variant != "" && '0' <= p.Variant[0] && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	return p, nil
}

// fit ranks an image for p against what is wanted; 0 is useless, more is
// better.
func (want platform) fit(p *platform) int {
	switch {
	case p == nil || p.Architecture == "":
		return 1 // it does not tell
	case p.OS != want.OS || p.Architecture != want.Architecture:
		return 0
	}
	variant := p.Variant
	if p.Architecture == "arm64" && variant == "v8" {
		variant = ""
	}
	switch {
	case variant == want.Variant:
		return 4
	case want.Variant == "" && p.Architecture == "arm":
		if variant == "v7" { // what hosts that run containers have
			return 3
		}
		return 2
	case want.Variant == "" && p.Architecture == "amd64":
		return 0 // v2 to v4 need more than every host has
	case want.Variant == "" || variant == "" || p.Architecture == "arm" && variant < want.Variant:
		return 2
	}
	return 0
}
