#!/bin/sh
# Runs a study as a Slurm array:  sbatch --array=0-7 launch/slurm.sh configs/quickstart.py runs/quickstart [overrides ...]
# The jobs share the work directory. Submit an interrupted job, or the whole array, again to resume the study.
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
set -eu
config=$1 workdir=$2
shift 2
i=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))
exec jaxft study --config="$config" --workdir="$workdir" --shard="$i/$SLURM_ARRAY_TASK_COUNT" "$@"
