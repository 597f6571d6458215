// Package oci carries out a [Plan]: it starts the container's processes, puts
// its root together, executes the payload and waits for it. It is the only
// executor; native mode lowers to it too.
//
// # Processes
//
//	caller (coracle exec)        x init                        x fuse
//	  |-- clone(user, mount, …) --->|  Plan in a memfd             |
//	  |-- start -------------------------------------------------->|
//	  |                             |  opens and mounts /dev/fuse  |  reads the image's tables
//	  |                             |-- its descriptor ----------->|  serves
//	  |<-- warnings, an error ------|  mounts, pivot_root          |
//	  |<-- end of the socket -------|  execve: the payload         |
//	  | forwards signals, waits     |                              |
//	  |<-- wait status -------------|                              |
//	  |-- "released" --------------------------------------------->|  until the last process
//	  |                                                            |  of the mount is gone
//
// x fuse has no privileges, lives outside the container's mount namespace and
// ends by itself when that namespace is gone. When the caller ends without the
// last message, it was killed: x init and the payload die with it
// (PR_SET_PDEATHSIG), and x fuse kills every other process in the container's user
// namespace. A container without an image has x guard for that alone.
//
// With Namespaces.Init, x init forks the payload and stays as PID 1; it tells the
// payload's wait status over its socket, since PID 1 cannot die of a signal by
// its own hand.
//
// # Traps
//
// The kernel refuses (EINVAL) a /dev/fuse descriptor that was opened in another
// user namespace than the mount's: x init opens it. It must close its copy: as
// long as one is open, requests wait for an answer although x fuse is dead.
//
// The root is made by mounts on top of "/", see builder. What is stacked below it
// has to be unmounted one by one after pivot_root.
//
// Package signal needs about 25 system calls for each signal that it catches.
package oci
