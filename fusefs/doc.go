// Package fusefs serves images as read-only file systems over FUSE.
//
// [New] takes an open SquashFS image and a [Config]; [Server.Serve] answers the
// kernel on a /dev/fuse descriptor that another process has mounted, with
// [Mount], in a namespace of its own:
//
//	x init (in the namespaces)             x fuse (outside of them)
//	--------------------------             ------------------------
//	dev := Mount(dir, source, flags)
//	dev over a socket ------------------>  New(image, config).Serve(dev)
//	goes on: the first access waits        answers INIT, then everything else
//	last process of the namespace dies     ENODEV: Serve returns nil
//
// There is no unmount: the mount goes when its namespace goes, with the last
// process in it, and the server follows.
//
// An image cannot be written to, yet a container needs mount points and files
// that are not in it. [Config.Entries] presents them on top of the image's
// tree, so no overlay and no copy is needed for that.
//
// # Asking once
//
// Nothing in an image ever changes, so every answer is given for ever: names,
// absent names, attributes, symbolic links, directories and file contents all
// stay in the kernel's caches. Node ids are the image's own inode references,
// which costs no table and makes FORGET empty. OPEN, OPENDIR, FLUSH and
// ACCESS are answered with ENOSYS, by which the kernel learns not to ask
// again; xattr calls too where an image has none. Calls that would change the
// tree get EROFS, never ENOSYS: overlayfs and apt take ENOSYS for a broken
// file system.
//
// # Traps
//
// A process that serves a mount and touches a path below it waits for itself.
// Serve therefore belongs into a process of its own that is outside of the
// mount namespace; inside, it would keep the namespace alive for ever.
//
// The kernel takes a /dev/fuse descriptor only for a mount in the user
// namespace where it was opened (EINVAL), so [Mount] opens it itself.
//
// A short answer to READ means "the file ends here" to the kernel, which then
// shrinks the file. A block that cannot be decoded must fail the request as a
// whole; the kernel asks again page by page and so reads what is good.
//
// go-fuse keeps one name for itself: ".go-fuse-epoll-hack" can be looked up
// (not listed) in the root.
//
// # Not here
//
// Nothing in this package opens images, follows symbolic links in them, makes
// namespaces or confines the serving process.
package fusefs
