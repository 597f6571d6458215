package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// Levels as SingularityCE's -q, -s and -v choose them.
const (
	levelVerbose = slog.LevelInfo - 1
	levelSilent  = slog.LevelError
)

// newLogger writes lines such as "INFO:    using the cached image" to w. At
// debug level each line also carries its attributes and the time.
func newLogger(w io.Writer, level slog.Level, color bool) *slog.Logger {
	debug := level <= slog.LevelDebug
	return slog.New(tint.NewTextHandler(w, &tint.Options{
		Level:      level,
		NoColor:    !color,
		TimeFormat: "15:04:05.000",
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			switch {
			case len(groups) > 0:
				return a
			case a.Key == slog.TimeKey && !debug:
				return slog.Attr{}
			case a.Key == slog.LevelKey:
				level, _ := a.Value.Any().(slog.Level)
				name, hue := levelName(level)
				return tint.Attr(hue, slog.String(a.Key, name))
			}
			return a
		},
	}))
}

// levelName returns a level's prefix, padded as SingularityCE pads it, and its
// ANSI colour.
func levelName(l slog.Level) (string, uint8) {
	switch {
	case l < levelVerbose:
		return "DEBUG:  ", 8
	case l < slog.LevelInfo:
		return "VERBOSE:", 4
	case l < slog.LevelWarn:
		return "INFO:   ", 4
	case l < slog.LevelError:
		return "WARNING:", 3
	}
	return "ERROR:  ", 1
}

// colored tells whether w is a terminal that wants colours.
func colored(w *os.File, env environment) bool {
	return term.IsTerminal(int(w.Fd())) && env.get("NO_COLOR") == "" && env.get("TERM") != "dumb"
}

// printFatal prints an error and, on lines of their own, the cure it knows.
func printFatal(w io.Writer, err error, color bool) {
	fatal, hint := "FATAL:  ", "HINT:   "
	if color {
		fatal, hint = "\x1b[31m"+fatal+"\x1b[0m", "\x1b[36m"+hint+"\x1b[0m"
	}
	fmt.Fprintf(w, "%s %v\n", fatal, err)
	for line := range strings.Lines(hintOf(err)) {
		fmt.Fprintf(w, "%s %s\n", hint, strings.TrimRight(line, "\n"))
		hint = strings.Repeat(" ", len("HINT:   "))
	}
}

// hintOf returns the hint of the outermost error in err's tree that has one.
func hintOf(err error) string {
	for err != nil {
		if h, ok := err.(interface{ Hint() string }); ok {
			if text := h.Hint(); text != "" {
				return text
			}
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			err = u.Unwrap()
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				if text := hintOf(e); text != "" {
					return text
				}
			}
			return ""
		default:
			return ""
		}
	}
	return ""
}
