module github.com/coracle-runtime/coracle

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0 // the command line
	github.com/anchore/go-lzo v0.1.1 // squashfs images compressed with lzo
	github.com/google/go-cmp v0.7.0 // readable differences in tests
	github.com/google/go-containerregistry v0.22.1 // registries, OCI layouts, docker archives
	github.com/hanwen/go-fuse/v2 v2.12.1 // the FUSE protocol
	github.com/klauspost/compress v1.20.3 // zstd, and deflate compression faster than the standard library's
	github.com/lmittmann/tint v1.2.1 // coloured log lines on a terminal
	github.com/mikelolasagasti/xz v1.0.1 // squashfs images compressed with xz
	github.com/moby/profiles/seccomp v0.2.3 // the filter that Docker uses by default
	github.com/pierrec/lz4/v4 v4.1.33 // squashfs images compressed with lz4
	github.com/rogpeppe/go-internal v1.15.0 // testscript, for tests of the command line
	github.com/rootless-containers/rootlesskit/v3 v3.3.0 // getsubids, for sub-ids that no file lists
	github.com/sylabs/sif/v2 v2.24.2 // the oracle of image/sif
	github.com/sylabs/squashfs v1.0.6 // an oracle of image/squashfs
	golang.org/x/sync v0.24.0 // errgroup
	golang.org/x/sys v0.49.0 // system calls
	golang.org/x/term v0.47.0 // terminals
	mvdan.cc/sh/v3 v3.13.1 // the interpreter of the images' environment scripts
)

require (
	github.com/docker/cli v29.7.2+incompatible // indirect
	github.com/docker/docker-credential-helpers v0.9.3 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/opencontainers/image-spec v1.1.1 // indirect
	github.com/opencontainers/runtime-spec v1.3.0 // indirect
	github.com/sirupsen/logrus v1.10.2 // indirect
	github.com/therootcompany/xz v1.0.1 // indirect
	github.com/ulikunitz/xz v0.5.17 // indirect
	golang.org/x/tools v0.49.0 // indirect
)
