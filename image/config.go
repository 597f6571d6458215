package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// maxJSON bounds manifests, indexes and configurations, in bytes. Registries
// accept 4 MiB.
const maxJSON = 16 << 20

// imageConfig is the part of an OCI image's configuration that conversion
// needs (image-spec, config.md).
type imageConfig struct {
	Created      *time.Time `json:"created"`
	OS           string     `json:"os"`
	Architecture string     `json:"architecture"`
	Variant      string     `json:"variant"`
	Config       struct {
		Env        []string          `json:"Env"`
		Entrypoint []string          `json:"Entrypoint"`
		Cmd        []string          `json:"Cmd"`
		Labels     map[string]string `json:"Labels"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"` // "layers"
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`

	object []byte // the config member, compact; what a SIF keeps
}

func parseConfig(raw []byte) (*imageConfig, error) {
	c := &imageConfig{}
	var parts struct {
		Config json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("parse image configuration: %w", err)
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, fmt.Errorf("parse image configuration: %w", err)
	}
	if len(parts.Config) == 0 || string(parts.Config) == "null" {
		parts.Config = []byte("{}")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, parts.Config); err != nil {
		return nil, fmt.Errorf("parse image configuration: %w", err)
	}
	c.object = b.Bytes()
	return c, nil
}

// entrypoint is the configured one; a list with one empty word unsets it, as
// in Docker.
func (c *imageConfig) entrypoint() []string {
	if e := c.Config.Entrypoint; len(e) != 1 || e[0] != "" {
		return e
	}
	return nil
}

// created is the time that the image gives, or the epoch's start: not the
// clock's, so that converting again gives the same bytes.
func (c *imageConfig) created() time.Time {
	if c.Created == nil || c.Created.Unix() < 0 {
		return time.Unix(0, 0)
	}
	return *c.Created
}
