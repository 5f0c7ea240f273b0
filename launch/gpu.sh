#!/bin/sh
# A study on a machine with NVIDIA GPUs:  launch/gpu.sh configs/quickstart.py runs/quickstart [overrides ...]
# Once before: pip install '.[cuda]'. Stopped at any moment, the same line goes on.
set -eu
config=$1 workdir=$2
shift 2
exec env JAX_PLATFORMS=cuda jaxft study --config="$config" --workdir="$workdir" "$@"
