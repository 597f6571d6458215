// Package sif reads and writes the Singularity Image Format.
package sif
