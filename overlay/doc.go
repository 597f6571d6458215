// Package overlay stacks read-only layers and one writable layer into a root
// filesystem, as the calling user.
//
// [Mount] asks the kernel: overlayfs inside a user namespace, Linux 5.11. [Probe]
// tells whether a directory's filesystem can hold the writable layer.
//
// # Traps
//
// Paths in overlayfs's option string are escaped differently from kernel to
// kernel (6.5 to 6.7 lost some of it) and the whole string may not exceed a page.
// A path that needs escaping, or a long list, is therefore named by a
// descriptor: /proc/self/fd/N.
//
// A directory with mounts below it that the namespace inherited cannot be a
// layer (EINVAL). rename(2) of a directory that lies in a lower layer is EXDEV
// for a user: redirect_dir is not allowed in a user namespace.
//
// # Not here
//
// Nothing in this package knows about images, registries or id maps.
package overlay
