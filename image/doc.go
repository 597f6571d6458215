// Package image gets, converts, stores, opens and describes container images.
// It moves bytes and knows neither namespaces nor mounts.
//
// Two halves meet in the file system. The one that makes images: a [URI] names
// a source, whose layers [Build], [Pull] and [Cache.Get] stream into a native
// SIF without unpacking them. The one that uses them: [Open] finds out what a
// file or directory is, and [Image.Root] reads single files of its root file
// system, which is what planning a run needs.
//
// # Traps
//
// Open is on the path of every start of a container. It reads header and table
// of an image at once and nothing else; what only describes an image (labels,
// configuration) is read when asked for.
//
// A name inside an image is never opened through the host's path walk, which
// would follow the image's absolute links out of it: see [Root] and [Resolve].
//
// A SIF's bytes depend on its source and options alone: clocks, host names and
// the number of workers must not reach them.
//
// # Not here
//
// The formats themselves, which are the pure packages below this one, and
// whatever runs an image.
package image
