// Package zstdblock compresses whole blocks of up to 1 MiB as zstd frames
// (RFC 8878), as fast and as well as the reference implementation's level 3.
//
// It exists because the writer of SquashFS images compresses millions of such
// blocks, each by itself: klauspost/compress, made for streams, works there on
// tables of 1.25 MiB, which fall out of a core's cache. Here they take 384 KiB
// and shrink with the block.
//
// # Traps
//
// An [Encoder]'s output depends on nothing but the block, whatever it
// compressed before. Its tables are therefore cleared for each block; a stale
// entry that happens to be true would still be a difference between two runs.
//
// # Not here
//
// Dictionaries, checksums, streams and other levels, and all of decompression.
package zstdblock
