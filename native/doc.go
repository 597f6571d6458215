// Package native plans the Singularity way of running: it turns flags, an image and facts about the host into an oci.Plan.
package native
