#!/bin/sh
# The environment of the application that was chosen with --app.

if [ -n "${SINGULARITY_APPNAME:-}" ]; then
    export SINGULARITY_APPNAME
    SCIF_APPNAME="$SINGULARITY_APPNAME"
    SCIF_APPROOT="/scif/apps/$SCIF_APPNAME"
    SCIF_APPDATA="/scif/data/$SCIF_APPNAME"
    SCIF_APPMETA="$SCIF_APPROOT/scif"
    if [ ! -d "$SCIF_APPROOT" ]; then
        echo "Could not locate the container application: $SCIF_APPNAME" >&2
        exit 1
    fi
    export SCIF_APPNAME SCIF_APPROOT SCIF_APPDATA SCIF_APPMETA
    if [ -d "$SCIF_APPROOT/bin" ]; then
        PATH="$SCIF_APPROOT/bin:$PATH"
        export PATH
    fi
    if [ -d "$SCIF_APPROOT/lib" ]; then
        LD_LIBRARY_PATH="$SCIF_APPROOT/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        export LD_LIBRARY_PATH
    fi
    if [ -f "$SCIF_APPMETA/env/01-base.sh" ]; then
        . "$SCIF_APPMETA/env/01-base.sh"
    fi
    if [ -f "$SCIF_APPMETA/env/90-environment.sh" ]; then
        . "$SCIF_APPMETA/env/90-environment.sh"
    fi
fi
