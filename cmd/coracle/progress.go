package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows how far long work is: one bar that is redrawn on a terminal, a
// line for every tenth elsewhere, nothing where the user asked for quiet.
type progress struct {
	w    io.Writer
	tty  bool
	cols int

	mu    sync.Mutex // guards what follows
	phase string
	last  time.Time // of the last drawing
	tenth int64     // the last tenth that was printed
	drawn bool
}

// newProgress returns nil, which is a valid silent progress, with -q.
func (a *app) newProgress() *progress {
	if a.quiet {
		return nil
	}
	p := &progress{w: a.stderr, cols: 80}
	if f, ok := a.stderr.(interface{ Fd() uintptr }); ok && term.IsTerminal(int(f.Fd())) {
		p.tty = true
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			p.cols = w
		}
	}
	return p
}

// redrawEvery keeps a bar from costing more than what it shows.
const redrawEvery = 80 * time.Millisecond

// update tells that done of total bytes of a phase are through; a total of 0 is
// unknown.
func (p *progress) update(phase string, done, total int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if phase != p.phase {
		p.finishLine()
		p.phase, p.tenth, p.last = phase, 0, time.Time{}
	}
	if p.tty {
		p.draw(done, total)
	} else {
		p.print(done, total)
	}
}

// done ends the bar's line.
func (p *progress) done() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finishLine()
	p.phase = ""
}

func (p *progress) finishLine() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *progress) draw(done, total int64) {
	now := time.Now()
	if now.Sub(p.last) < redrawEvery && done != total {
		return
	}
	p.last, p.drawn = now, true
	label := fmt.Sprintf("%-10s %9s", p.phase, mebibytes(done))
	if total <= 0 {
		fmt.Fprintf(p.w, "\r\x1b[K%s", label)
		return
	}
	label += fmt.Sprintf(" / %s %3d%% ", mebibytes(total), 100*done/total)
	width := max(0, min(40, p.cols-len(label)-3))
	full := int(int64(width) * min(done, total) / total)
	fmt.Fprintf(p.w, "\r\x1b[K%s[%s%s]", label, strings.Repeat("=", full), strings.Repeat(" ", width-full))
}

// print writes a line for every tenth of work that takes long enough to be
// worth a line.
func (p *progress) print(done, total int64) {
	const worthALine = 64 << 20
	if total < worthALine {
		return
	}
	tenth := 10 * done / total
	if tenth <= p.tenth {
		return
	}
	p.tenth = tenth
	fmt.Fprintf(p.w, "%s %d%% of %s\n", p.phase, 10*tenth, mebibytes(total))
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
