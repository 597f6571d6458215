package userns

import (
	"os"
	"testing"
	"time"
)

func TestProbeHere(t *testing.T) {
	needUserns(t)
	start := time.Now()
	r := Probe(t.Context(), ProbeOptions{System: Host(os.Getenv), Dirs: []string{t.TempDir()}})
	t.Logf("level %d in %v\n%s", r.Level(), time.Since(start), r)
	for _, f := range r.Findings {
		t.Log(f)
	}
}
