// Package nofile remembers the limit of open files that this program was
// started with.
//
// The Go runtime raises the soft limit of every Go program (go.dev/issue/46279)
// and lowers it again in the children of package syscall, from a variable that
// nobody else may read. Children started in any other way would see a limit of
// up to a million, and old programs that close every possible descriptor then
// take seconds to start.
//
// # Traps
//
// The limit must be read before package syscall is initialised. Packages are
// initialised in the order of their import paths, those without imports first
// (Go specification, Program initialization): this package therefore imports
// nothing and asks the kernel by itself, in the only initialiser of this house.
package nofile
