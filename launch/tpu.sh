#!/bin/sh
# A study on a TPU VM:  launch/tpu.sh configs/quickstart.py runs/quickstart [overrides ...]
# Once before: pip install '.[tpu]'. Stopped at any moment, the same line goes on.
set -eu
config=$1 workdir=$2
shift 2
exec env JAX_PLATFORMS=tpu jaxft study --config="$config" --workdir="$workdir" "$@"
