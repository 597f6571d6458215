// Package userns makes user namespaces, their id maps and processes in them,
// and probes what this host allows.
//
// # Traps
//
// A multithreaded process cannot enter a user namespace; [Start] therefore
// clones a single-threaded child that enters or creates its namespaces and
// executes a program at once.
//
// A mapped uid other than 0 loses its capabilities at execve; [Start] raises
// them as ambient capabilities where the caller asks for them.
//
// # Not here
//
// Nothing in this package mounts a root file system or knows about images.
package userns
