// Package oci carries out a [Plan]: it starts the container's processes, puts
// its root together, executes the payload and waits for it. It is the only
// executor; native mode lowers to it too.
//
// # Processes
//
//	caller (coracle exec)        x fuse                     x init
//	  |-- start ------------------->|                          |
//	  |-- clone(user, mount, …) ------------------------------>|  Plan on descriptor 3
//	  |                             |<-- /dev/fuse descriptor--|  opened and mounted inside
//	  |                             | serves                   |  mounts, pivot_root
//	  |<-------------------------------- error, or EOF --------|  execve closes the socket
//	  | forwards signals, waits     | until the last process   |  the payload
//	  |                             | of the mount is gone     |
//
// x fuse has no privileges, lives outside the container's mount namespace and
// ends by itself when that namespace is gone.
//
// # Traps
//
// The kernel refuses (EINVAL) a /dev/fuse descriptor that was opened in another
// user namespace than the mount's: x init opens it.
package oci
