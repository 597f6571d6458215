// Package image gets, converts, stores, opens and describes container images.
package image
