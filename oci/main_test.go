package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary is its own coracle: Run starts it as x init and x fuse, and
// the tests start it as a caller that they can kill.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "x" {
		os.Exit(hidden(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func hidden(name string, args []string) int {
	switch name {
	case "init":
		if err := Init(args, resolveForTest); err != nil {
			return 255
		}
	case "fuse":
		if err := ServeFUSE(); err != nil {
			return 1
		}
	case "guard":
		if err := Guard(); err != nil {
			return 1
		}
	case "caller":
		return callerMain(args)
	case "shell":
		return shellMain(args)
	case "restricted":
		return restrictedMain(args)
	case "prepared":
		return prepareMain(args)
	}
	return 0
}

// resolveForTest appends the action to the environment.
func resolveForTest(action json.RawMessage, p *Process, warn func(string)) error {
	var a struct{ Env, Fail, Warn string }
	if err := json.Unmarshal(action, &a); err != nil {
		return err
	}
	if a.Warn != "" {
		warn(a.Warn)
	}
	if a.Fail != "" {
		return errors.New(a.Fail)
	}
	p.Env = append(p.Env, a.Env)
	return nil
}

// callerMain is `coracle exec` without its flags: x caller PLANFILE [debug].
func callerMain(args []string) int {
	level := slog.LevelInfo
	if len(args) > 1 && args[1] == "debug" {
		level = slog.LevelDebug
	}
	r := Runtime{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	}
	b, err := os.ReadFile(args[0])
	if err == nil {
		var p Plan
		if err = json.Unmarshal(b, &p); err == nil {
			var status Status
			if status, err = r.Run(context.Background(), &p); err == nil {
				return end(status)
			}
		}
	}
	fmt.Fprintf(os.Stderr, "FATAL: %v (%T)\n", err, err)
	return 255
}

// end is what cmd does with a status, by a shell's convention.
func end(s Status) int {
	switch s.Signal {
	case unix.SIGTERM, unix.SIGKILL, unix.SIGINT, unix.SIGHUP: // those that Go dies of
		unix.Kill(unix.Getpid(), s.Signal)
	}
	return s.Code
}
