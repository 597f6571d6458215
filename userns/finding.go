package userns

import (
	"fmt"
	"strings"
)

// Status is the outcome of one finding.
type Status string

const (
	OK   Status = "ok"
	Info Status = "info" // less than possible, but nothing that a plain run needs
	Warn Status = "warn" // works, degraded
	Fail Status = "fail" // no container can be run
)

// Who has to do something about a finding.
type Who string

const (
	You     Who = "you"
	Admin   Who = "admin of this host"
	Starter Who = "whoever starts the outer container"
	Us      Who = "the authors of coracle"
)

// Finding is one thing that works or does not, in words.
type Finding struct {
	ID     string `json:"id"`              // userns, mounts, root, fuse, overlay, pid, ids, …
	Status Status `json:"status"`          //
	Cause  string `json:"cause,omitempty"` // a stable name of the reason, for programs
	Title  string `json:"title"`
	Text   string `json:"text"` // one or more lines
	Cures  []Cure `json:"cures,omitempty"`
	Step   Step   `json:"step,omitempty"`  // what was refused
	Errno  string `json:"errno,omitempty"` // and how: EPERM, …
}

// Cure is a way to change that, to be pasted.
type Cure struct {
	Who   Who      `json:"who"`
	Text  string   `json:"text,omitempty"` // what it does, or where it belongs
	Lines []string `json:"lines"`
}

// String is the finding as doctor prints it.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-4s %s: %s\n", strings.ToUpper(string(f.Status)), f.Title, indent(f.Text, "     "))
	for _, c := range f.Cures {
		fmt.Fprintf(&b, "     Fix [%s]:%s\n", c.Who, space(c.Text))
		for _, l := range c.Lines {
			fmt.Fprintf(&b, "       %s\n", indent(l, "       "))
		}
	}
	return b.String()
}

// Hint is the reason and the cures, for below the error of the kernel.
func (f Finding) Hint() string {
	var b strings.Builder
	b.WriteString(f.Text)
	for _, c := range f.Cures {
		fmt.Fprintf(&b, "\n[%s]%s", c.Who, space(c.Text))
		for _, l := range c.Lines {
			b.WriteString("\n  " + indent(l, "  "))
		}
	}
	return b.String()
}

func space(s string) string {
	if s == "" {
		return ""
	}
	return " " + s
}

func indent(s, by string) string { return strings.ReplaceAll(s, "\n", "\n"+by) }

// Report is what doctor prints, and what decides on fallbacks.
type Report struct {
	Findings []Finding `json:"findings"`
	Works    []string  `json:"works"` // one line each
	Facts    Facts     `json:"facts"`
}

// Level is 0 when everything works, 1 when something is degraded, and 2 when no
// container can be run.
func (r Report) Level() int {
	level := 0
	for _, f := range r.Findings {
		switch f.Status {
		case Warn:
			level = max(level, 1)
		case Fail:
			level = 2
		}
	}
	return level
}

// Finding finds one by its ID; its Status is "" when the probe was not made.
func (r Report) Finding(id string) Finding {
	for _, f := range r.Findings {
		if f.ID == id {
			return f
		}
	}
	return Finding{ID: id}
}

// Failure is the reason why no container can be run, nil where one can.
func (r Report) Failure() *Finding {
	for _, f := range r.Findings {
		if f.Status == Fail {
			return &f
		}
	}
	return nil
}

// String is the whole report: what is broken or degraded, then what works.
func (r Report) String() string {
	var b strings.Builder
	for _, f := range r.Findings {
		if f.Status != OK {
			b.WriteString(f.String())
		}
	}
	for _, w := range r.Works {
		b.WriteString(w + "\n")
	}
	return b.String()
}
