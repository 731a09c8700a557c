#!/usr/bin/env bash
# A run or a study on GPUs of a Slurm cluster, one process for each GPU.
#
#   launch/slurm.sh study CONFIG.py --accelerator=h100:2x8 --run_dir=DIR \
#     [--partition=...] [--account=...] [--time=24:00:00] [--restarts=10] \
#     [--name=NAME] [--config.KEY=VALUE ...]
#
# Start it from the repository's root, on a disk that all nodes share, with the
# environment in which `rlft` runs. Five minutes before its time is up the run
# is told to save; it is queued again after exit code 42 and death by signal.
# DRY_RUN=1 prints the command.
set -euo pipefail
# shellcheck source=launch/shared.sh
source "${BASH_SOURCE[0]%/*}/shared.sh"

read_request slurm "$@"
options=()
for each in partition account time; do
  if [[ -n ${asked[${each}]} ]]; then
    options+=("--${each}=${asked[${each}]}")
  fi
done
if ((asked[chips_per_host] == 8)); then options+=(--exclusive); fi
# --signal without B: goes to the processes, not to the script around them
perform sbatch --job-name="${asked[name]}" --nodes="${asked[hosts]}" \
  --ntasks="${asked[processes]}" \
  --ntasks-per-node="${asked[chips_per_host]}" \
  --gpus-per-node="${asked[chips_per_host]}" --requeue --open-mode=append \
  --signal=TERM@300 --output=%x-%j.log "${options[@]}" \
  launch/slurm_job.sh "${asked[restarts]}" "${asked[processes]}" \
  env "${environment[@]}" "${command_words[@]}"
