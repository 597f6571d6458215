// Package inflate decodes zlib streams (RFC 1950, RFC 1951) that lie in memory
// as a whole, into a buffer that takes the whole result; and gzip files (RFC
// 1952) as they are read, in large pieces, for the layers of container images.
//
// compress/flate has to stop and go on at any byte and keeps a window; blocks
// of an image need neither. Without them a 64-bit bit buffer, tables that resolve
// most codes at once and copies of whole words decode at more than twice its
// speed. The design follows libdeflate.
//
// # Traps
//
// The fast loop reads and writes beyond what it needs, and therefore runs only
// while both buffers have room to spare; the last bytes go through a careful
// loop that checks each step. Whatever the input, dst is never written behind
// its length; what lies behind the returned length may have been overwritten.
//
// # Not here
//
// No preset dictionaries, no raw deflate; no results byte by byte as they come,
// as an interactive connection would want them.
package inflate
