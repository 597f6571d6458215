package userns

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// NoSubIDsError tells that the caller has no subordinate ids, or none of the
// ones he has exist in the user namespace he is in.
type NoSubIDsError struct {
	User       string
	UID        int
	File       string // /etc/subuid or /etc/subgid
	Host       string
	NotVisible bool // there is an entry, but this (outer) container does not have those ids
}

func (e *NoSubIDsError) Error() string {
	if e.NotVisible {
		return fmt.Sprintf("the subordinate ids of %s do not exist in this container", e.User)
	}
	return fmt.Sprintf("%s has no entry for %s on %s, and getsubids knows none", e.File, e.User, e.Host)
}

// Hint is the administrator's line.
func (e *NoSubIDsError) Hint() string {
	if e.NotVisible {
		return "start the outer container with more ids, or do without --fakeroot"
	}
	return "ask the administrator of " + e.Host + " to run (with a block that no other user has): " + addSubIDs(e.User)
}

func addSubIDs(user string) string {
	return "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + user
}

// HelperError tells that newuidmap or newgidmap is missing or failed.
type HelperError struct {
	Program    string // newuidmap or newgidmap
	Path       string // where it was found, or Program
	Said       string // what it printed
	NoNewPrivs bool   // it was not asked: it could not gain privileges
	Err        error
}

func (e *HelperError) Error() string {
	switch {
	case e.NoNewPrivs:
		return fmt.Sprintf("%s cannot gain privileges: no_new_privs is set", e.Path)
	case e.Said != "":
		return fmt.Sprintf("run %s: %s", e.Path, strings.ReplaceAll(e.Said, "\n", "; "))
	}
	return fmt.Sprintf("run %s: %v", e.Path, e.Err)
}

func (e *HelperError) Unwrap() error { return e.Err }

// Missing tells that there is no such program.
func (e *HelperError) Missing() bool { return errors.Is(e.Err, exec.ErrNotFound) }

// Hint is the cure that needs no look at the host; [Diagnose] knows more.
func (e *HelperError) Hint() string {
	switch {
	case e.Missing():
		return "ask the administrator to install it: apt-get install uidmap, dnf install shadow-utils, or apk add shadow-subids"
	case e.NoNewPrivs:
		return "start without no_new_privs (docker no-new-privileges, allowPrivilegeEscalation: false, systemd NoNewPrivileges)"
	case strings.Contains(e.Said, "owned by a different user"):
		return "the group of this process is not your primary one: leave newgrp, sg or the batch system's group option, and try again"
	}
	return "ask the administrator to run: setcap cap_setuid=ep /usr/bin/newuidmap; setcap cap_setgid=ep /usr/bin/newgidmap"
}
