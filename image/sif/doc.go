// Package sif reads and writes the Singularity Image Format, the one-file
// container image: a launch script, a header, a table of descriptors and the
// data objects that these describe.
//
// [Read] takes header and table with one large read and checks every number in
// them. [Writer] lays out a new image; a partition is written in place, by
// whatever makes the file system in it, so that there is no second copy of it.
// The format has no written specification but the code of
// github.com/sylabs/sif/v2, whose files this package reproduces byte for byte;
// the tests hold it to that.
//
// # Traps
//
// The header is written last: a file whose [Writer] was not closed has no
// magic and is no SIF. Nothing in the format covers data against damage; the
// digests in an OCI-SIF and the signatures of a signed image do.
//
// # Not here
//
// Signatures, encryption, and changing an existing file.
package sif
