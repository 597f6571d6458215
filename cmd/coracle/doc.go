// Command coracle runs containers without an administrator: it makes, fetches
// and runs Singularity images (SIF) and other container images as the calling
// user, with nothing but user namespaces and FUSE.
//
// This package is the only place that reads the environment, prints and exits.
// [main] finds the command word, parses that command's flags with kong and
// calls its Run method; run.go is the way from `coracle exec` to execve.
package main
