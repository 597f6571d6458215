package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestProgressPrintsEachTenthOnce(t *testing.T) {
	var b bytes.Buffer
	p := &progress{w: &b, cols: 80}
	const total = 100 << 20
	for done := int64(0); done <= total; done += 1 << 20 { // two phases at once
		p.update("download", done, total)
		p.update("convert", done/2, total)
	}
	p.done()
	if got := strings.Count(b.String(), "download"); got != 10 {
		t.Errorf("%d lines for download, want 10:\n%s", got, &b)
	}
	if got := strings.Count(b.String(), "convert"); got != 5 {
		t.Errorf("%d lines for convert, want 5:\n%s", got, &b)
	}
}

func TestProgressDrawsWithinTheTerminal(t *testing.T) {
	for _, cols := range []int{21, 40, 80, 300} {
		var b bytes.Buffer
		p := &progress{w: &b, cols: cols, tty: true}
		p.update("download", 30<<20, 100<<20)
		p.last = p.last.Add(-redrawEvery)
		p.update("convert", 10<<20, 100<<20)
		p.last = p.last.Add(-redrawEvery)
		p.update("extract", 5<<20, 0)
		p.done()
		for _, line := range strings.Split(b.String(), "\r\x1b[K") {
			if len(line) >= cols {
				t.Errorf("a line of %d bytes on %d columns: %q", len(line), cols, line)
			}
		}
		if !strings.HasSuffix(b.String(), "\r\x1b[K") {
			t.Errorf("the bar stays behind: %q", b.String())
		}
	}
}

func TestNoProgressIsSilent(t *testing.T) {
	var p *progress
	p.update("download", 1, 2)
	p.done()
}
