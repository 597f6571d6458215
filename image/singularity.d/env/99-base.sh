#!/bin/sh
# What holds in every image: libraries bound from the host are found last.

LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
PS1="Singularity> "
export LD_LIBRARY_PATH PS1
