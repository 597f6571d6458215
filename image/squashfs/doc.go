// Package squashfs reads and writes SquashFS 4.0 images, the root file systems
// of SIF files.
//
// A [Reader] gives random access to an image in any io.ReaderAt: a file, a SIF
// partition, a blob in a registry. A [Writer] makes an image from a stream of
// file contents and a tree of [Node] values; the same input gives the same
// bytes with any number of workers.
//
// # Traps
//
// Images come from strangers: every number read from one is checked before it
// is used, so a broken image gives an error and never a panic, a hang or an
// allocation of more than a few megabytes.
//
// # Not here
//
// Nothing in this package mounts anything, resolves symbolic links or knows
// about SIF, layers and whiteouts.
package squashfs
