#!/bin/sh
# Runs a study on NVIDIA GPUs:  launch/gpu.sh configs/quickstart.py runs/quickstart [overrides ...]
# Install first: pip install '.[cuda]'. The same command resumes an interrupted study.
set -eu
config=$1 workdir=$2
shift 2
exec env JAX_PLATFORMS=cuda jaxft study --config="$config" --workdir="$workdir" "$@"
