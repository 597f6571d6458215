// Package layer merges container image layers into one tree.
package layer
