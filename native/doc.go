// Package native plans the Singularity way of running a container, and resolves
// what to execute once it is inside.
//
// [Plan] turns flags, an image and facts about the host into an [oci.Plan]; it
// changes nothing and reads nothing but the image and the host files it is
// given. The executor in package oci carries the plan out. Its last step inside
// the container is [Resolve]: it sources the image's environment scripts with an
// embedded shell interpreter, so that images without /bin/sh work too, and says
// which program to execute.
//
// # Traps
//
// The order of mounts is SingularityCE's (dev, hosts and localtime, proc and
// sys, home, tmp, scratch, generated files, the user's binds, the working
// directory), with one exception: a home below /tmp comes after /tmp.
//
// SingularityCE clears the host's variables before the image's scripts run and
// restores afterwards those that no script has set. So ${FOO:-default} in a
// script never sees the host's FOO.
//
// Programs that a script runs therefore have the image's variables alone; those
// of SINGULARITYENV_ and --env join after 99-base.sh.
//
// The embedded interpreter is no dash: see repair for what it gets wrong, and
// TestEvaluationAgreesWithDash for what has been compared.
//
// Environment scripts travel in the plan where nothing mounted can hide them;
// else, and from sandboxes, they are read inside. Both ways give the same.
//
// # Not here
//
// Nothing in this package mounts, forks or reads the process environment, save
// commands that an image's own scripts run.
package native
