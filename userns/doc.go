// Package userns makes user namespaces, their id maps and processes in them,
// and finds out what this host allows.
//
// [Process.Start] starts a program in new namespaces or joins existing ones;
// [Choose] decides on its id map from the capabilities and subordinate ids of
// the caller. [Probe] tries each thing that a container needs in a process of
// its own and explains what is refused, with cures; [Diagnose] gives the same
// explanation for an error on the way to a container, so that doctor and exec
// never disagree.
//
// # Traps
//
// A multithreaded process cannot enter a user namespace; Start therefore clones
// a single-threaded child that enters or creates its namespaces and executes a
// program at once.
//
// Until then the child shares the memory and the stack of its parent (vfork).
// It calls only what neither allocates nor checks the stack; see the rules at
// the type child.
//
// A mapped uid other than 0 loses its capabilities at execve; Start raises them
// as ambient capabilities where the caller asks for them.
//
// The parent death signal belongs to the thread that called Start, not to the
// process: see Process.ParentDeath.
//
// Sysctls explain a refusal but never predict one; nor does uid 0, which in a
// container may have no capabilities at all.
//
// # Not here
//
// Nothing in this package mounts a root file system or knows about images.
package userns
