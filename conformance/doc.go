// Package conformance drives built binaries, Coracle's and its peers', and
// compares what they do.
//
// It imports nothing of ours: the same images, made here, run under docker,
// rootless podman and coracle, and the outputs and exit statuses must agree, but
// for the deviations that the table lists with their reasons. A listed deviation
// that no longer shows is a failure too.
package conformance
