package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"github.com/coracle-runtime/coracle/oci"
	"github.com/coracle-runtime/coracle/userns"
)

type doctorCmd struct {
	globals
	JSON         bool `help:"Print the whole report as JSON."`
	PrintSeccomp bool `help:"Print a seccomp profile for an outer container in which coracle can run: Docker's own, and a few calls more."`
}

// Run probes this host and tells what works: exit status 0 if everything does, 1
// if some things are done in another way, 2 if containers cannot run.
func (c *doctorCmd) Run(ctx context.Context, a *app) error {
	if c.PrintSeccomp {
		profile, err := userns.NestingProfile()
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(profile)
		return err
	}
	report := userns.Probe(ctx, userns.ProbeOptions{System: userns.Host(a.env.get), Dirs: []string{a.tempDir()}})
	if c.JSON {
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(report); err != nil {
			return err
		}
	} else if _, err := fmt.Fprint(a.stdout, report); err != nil {
		return err
	}
	if level := report.Level(); level > 0 {
		return &statusError{code: level}
	}
	return nil
}

// diagnosed is an error of the kernel's with what doctor would say of it.
type diagnosed struct {
	error
	finding *userns.Finding
}

func (d diagnosed) Unwrap() error { return d.error }
func (d diagnosed) Hint() string  { return d.finding.Hint() }

// diagnose adds the cure to an error of the host's, where one is known.
func (a *app) diagnose(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	system := userns.Host(a.env.get)
	finding := userns.Diagnose(err, system.ReadFacts(ctx))
	var step *oci.StepError
	if finding == nil && errors.As(err, &step) && (errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM)) {
		finding = userns.Probe(ctx, userns.ProbeOptions{System: system}).Failure() // is it the host's doing?
	}
	if finding != nil {
		return diagnosed{err, finding}
	}
	return err
}
