#!/bin/bash
# A job on a Slurm allocation: Ray's head and workers on its nodes, the run on the first, and a clean end.
# Needs:   nodes of one's own (--exclusive), a checkout with `make install` on a disk that all nodes share.
# Costs:   --nodes × --gpus-per-node × the hours until the run ends, at most --time at a try.
#   sbatch examples/clusters/slurm.sh jobs/reinforce_dfn.yaml input.shards=/data/dfn2b12m output.path=/data/dfndr-2b12m
#   tail --follow dr-pipeline-JOBID.log
#   scancel JOBID
# Submitting again resumes: only missing shards are done. A job that is preempted, loses a node or reaches its time limit
# is queued again by itself, and goes on. --cpus-per-task is GPUs of a node × the job's workers.cpus.
#SBATCH --job-name=dr-pipeline
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script by sbatch}"
# shellcheck source=/dev/null
source .venv/bin/activate

# Whoever reaches Ray's ports without the token may not run code. srun hands the environment to all nodes.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
RAY_ADDRESS=$(hostname):6379
RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_ADDRESS RAY_TMPDIR RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # when the run has ended there is nothing to wait for

# One task a node: the head on the first, where this script runs, and a worker on each other.
# shellcheck disable=SC2016
srun bash -c '
    if [ "$SLURM_NODEID" = 0 ]; then
        exec ray start --block --head --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false
    fi
    exec ray start --block --address="$RAY_ADDRESS" --num-cpus="$SLURM_CPUS_PER_TASK"
' &
cluster=$!

end() {
    kill -TERM "$cluster" 2>/dev/null || true
    wait "$cluster" || true
    rm -rf "$RAY_TMPDIR"
}
trap end EXIT

until ray health-check --address="$RAY_ADDRESS" 2>/dev/null; do
    kill -0 "$cluster" # else Ray could not start
    sleep 2
done

dr-pipeline run "$@" &
run=$!
stop() {
    kill -TERM "$run" 2>/dev/null || true
    wait "$run" || true
}
trap stop TERM
# Three minutes before the time limit the run stops, and the job is queued again.
trap 'stop; end; scontrol requeue "$SLURM_JOB_ID"' USR1
wait "$run"
