// Package overlay stacks read-only layers and one writable layer into a root file system.
package overlay
