// Package layer merges container image layers into one tree, and trees into
// directories and back.
//
// [Merge] reads each layer's tar stream once, from the top layer down, and
// hands the file contents to a [Store] as they arrive: what an upper layer
// hides is never stored, and nothing is unpacked to disk. When all names are
// known, the layers' changes are applied to a tree from the bottom up, in
// memory, as the OCI image specification (layer.md) and Docker do:
//
//   - whiteouts (".wh.name") and opaque markers (".wh..wh..opq") act on lower
//     layers only, wherever they stand in their archive;
//   - a directory over a directory changes its metadata, anything else replaces
//     what was there with all below it;
//   - an entry below a directory that its layer does not mention goes where the
//     lower layers' symbolic links lead ("lib/x" to "usr/lib/x"), inside the
//     root; "..", and ways through a symbolic link or file of the same layer,
//     are refused;
//   - of several entries of one name in a layer the last counts;
//   - a hard link binds to the file that its target names when the layer is
//     applied, and keeps it when an upper layer replaces the target;
//   - directories that no layer mentions are root's, of mode 0755 and time 0.
//
// [FromDir] makes a tree of a directory, [Extract] a directory of an image.
// [Lookup], [Resolve] and [Insert] work on trees.
//
// # Traps
//
// The content of a file may turn out to be needed only when all layers are
// read: a hard link to a file that an upper layer replaced. Merge then reads
// that layer once more, so Layer.Open must work twice.
//
// The order of the Store's calls depends on the layers only, not on timing or
// the number of workers: images are reproducible.
//
// # Not here
//
// Nothing in this package knows registries, manifests or on-disk formats.
package layer
