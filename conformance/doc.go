// Package conformance drives built binaries, Coracle's and its peers', and compares what they do.
package conformance
