package main

import (
	"fmt"
	"io"
	"slices"
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

	mu     sync.Mutex // guards what follows
	phases []phase    // in the order of their beginning; several may run at once
	last   time.Time  // of the last drawing
	drawn  bool
}

// phase is a part of the work with an amount of its own, in bytes; a total of 0
// is unknown.
type phase struct {
	name        string
	done, total int64
	tenth       int64 // the last one that was printed
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
func (p *progress) update(name string, done, total int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.phases, func(ph phase) bool { return ph.name == name })
	if i < 0 {
		i = len(p.phases)
		p.phases = append(p.phases, phase{name: name})
	}
	ph := &p.phases[i]
	ph.done, ph.total = max(ph.done, done), total
	if p.tty {
		p.draw()
	} else {
		p.print(ph)
	}
}

// done removes the bar.
func (p *progress) done() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
	p.phases = nil
}

// draw shows the phases that are not through, each with its share, and a bar for
// the last of them.
func (p *progress) draw() {
	now := time.Now()
	if now.Sub(p.last) < redrawEvery {
		return
	}
	p.last, p.drawn = now, true
	var line strings.Builder
	bar := phase{}
	for _, ph := range p.phases {
		switch {
		case ph.total <= 0:
			fmt.Fprintf(&line, "%s %s  ", ph.name, mebibytes(ph.done))
		case ph.done < ph.total:
			fmt.Fprintf(&line, "%s %s / %s %3d%%  ", ph.name, mebibytes(ph.done), mebibytes(ph.total), 100*ph.done/ph.total)
			bar = ph
		}
	}
	if width := min(40, p.cols-line.Len()-3); bar.total > 0 && width > 4 {
		full := int(int64(width) * bar.done / bar.total)
		fmt.Fprintf(&line, "[%s%s]", strings.Repeat("=", full), strings.Repeat(" ", width-full))
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", line.String()[:min(line.Len(), p.cols-1)])
}

// print writes a line for every tenth of work that takes long enough to be
// worth a line.
func (p *progress) print(ph *phase) {
	const worthALine = 64 << 20
	if ph.total < worthALine {
		return
	}
	tenth := 10 * ph.done / ph.total
	if tenth <= ph.tenth {
		return
	}
	ph.tenth = tenth
	fmt.Fprintf(p.w, "%s %d%% of %s\n", ph.name, 10*tenth, mebibytes(ph.total))
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
