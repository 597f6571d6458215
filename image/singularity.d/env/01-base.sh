#!/bin/sh
# The scripts of this directory set up the image's environment, in the order of
# their names.
