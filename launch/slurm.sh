#!/usr/bin/env bash
# A Slurm batch job: sbatch --nodes=4 --ntasks-per-node=8 launch/slurm.sh train recipes/x.yaml
# Two minutes before the time limit, and on pre-emption, Slurm signals this script, the job saves and stops, and, where
# the site allows it, is queued again and resumes (--resume auto is the default of train).
#SBATCH --job-name=tessera
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -uo pipefail
# sbatch runs a copy of this file: the tree is where the job was submitted.
root=${TESSERA_ROOT:-${SLURM_SUBMIT_DIR:?run this with sbatch}}
if [ ! -x "$root/launch/run" ]; then
  echo "launch/slurm.sh: $root has no launch/run; submit from Tessera's folder or set TESSERA_ROOT" >&2
  exit 2
fi
again=0
"$root/launch/run" -n "${SLURM_NTASKS:?}" -- "$@" &
job=$!
trap 'again=1; kill -USR1 $job' USR1
trap 'kill -USR1 $job' TERM
while :; do
  wait $job
  code=$?
  kill -0 $job 2>/dev/null || break
done
if [ $again = 1 ] && [ $code = 0 ]; then
  scontrol requeue "$SLURM_JOB_ID" || echo "launch/slurm.sh: not queued again; submit the same command to resume" >&2
fi
exit $code
