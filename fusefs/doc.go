// Package fusefs serves images as file systems over FUSE.
package fusefs
