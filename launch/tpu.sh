#!/bin/sh
# Runs a study on a TPU VM:  launch/tpu.sh configs/quickstart.py runs/quickstart [overrides ...]
# Install first: pip install '.[tpu]'. The same command resumes an interrupted study.
set -eu
config=$1 workdir=$2
shift 2
exec env JAX_PLATFORMS=tpu jaxft study --config="$config" --workdir="$workdir" "$@"
