#!/bin/sh
# Variables that tell where the image's applications are; there are none.
