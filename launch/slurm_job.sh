#!/usr/bin/env bash
# What launch/slurm.sh submits: slurm_job.sh RESTARTS PROCESSES COMMAND ...
set -euo pipefail
shopt -s nullglob
# shellcheck source=launch/shared.sh
source launch/shared.sh # Slurm runs a copy of this file, in the root
: "${SLURM_JOB_ID:?}" "${SLURM_JOB_NAME:?}"

restarts=$1
processes=$2
shift 2
count=${SLURM_RESTART_COUNT:-0}
codes=${SLURM_JOB_NAME}-${SLURM_JOB_ID}.${count}
mkdir "${codes}"

# Told to end itself, it does not ask to be queued again. It hands nothing on:
# Slurm signals the processes, and srun would answer SIGTERM with SIGKILL.
ended=''
trap 'ended=1' TERM

code=0
srun --kill-on-bad-exit=1 --cpu-bind=none bash launch/slurm_task.sh \
  "${codes}" "$@" || code=$?

# srun gives the code of what it killed after the first failure, not of that
own=$(cat "${codes}"/* /dev/null)
rm -r "${codes}"
if ((code != 0)); then code=$(verdict "${code}" "${processes}" <<<"${own}"); fi
say "ended with exit code ${code}"
# shellcheck disable=SC2310  # it is one comparison
if [[ -z ${ended} ]] && again "${code}"; then
  if ((count < restarts)); then
    scontrol requeue "${SLURM_JOB_ID}"
  else
    say "queued ${count} times again, which is the limit (--restarts)"
  fi
fi
exit "${code}"
