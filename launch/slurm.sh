#!/usr/bin/env bash
# A run or a study on GPUs of a Slurm cluster, one process for each GPU.
#
#   launch/slurm.sh study CONFIG.py --accelerator=h100:2x8 --run_dir=DIR \
#     [--partition=...] [--account=...] [--time=24:00:00] [--restarts=10] \
#     [--name=NAME] [--gpu_type=h100] [--cpus=16] [--memory=100G] \
#     [--config.KEY=VALUE ...]
#
# --gpu_type is what the site calls these GPUs, where it has several kinds;
# --cpus (of each process) and --memory (of each node) are for nodes that are
# shared. Start it from the repository's root, on a disk that all nodes share,
# with the environment in which `rlft` runs. Five minutes before its time is up
# the run is told to save; it is queued again after exit code 42 and death by
# signal. DRY_RUN=1 prints the command.
set -euo pipefail
# shellcheck source=launch/shared.sh
source "${BASH_SOURCE[0]%/*}/shared.sh"

read_request slurm "$@"
options=()
if [[ -n ${asked[cpus]} ]]; then
  options+=("--cpus-per-task=${asked[cpus]}")
fi
if [[ -n ${asked[memory]} ]]; then options+=("--mem=${asked[memory]}"); fi
for each in partition account time; do
  if [[ -n ${asked[${each}]} ]]; then
    options+=("--${each}=${asked[${each}]}")
  fi
done
if ((asked[chips_per_host] == 8)); then options+=(--exclusive); fi
gpus=${asked[chips_per_host]} # of the kind that the site calls so
if [[ -n ${asked[gpu_type]} ]]; then gpus=${asked[gpu_type]}:${gpus}; fi
# --signal without B: goes to the processes, not to the script around them
perform sbatch --job-name="${asked[name]}" --nodes="${asked[hosts]}" \
  --ntasks="${asked[processes]}" \
  --ntasks-per-node="${asked[chips_per_host]}" \
  --gpus-per-node="${gpus}" --requeue --open-mode=append \
  --signal=TERM@300 --output=%x-%j.log "${options[@]}" \
  launch/slurm_job.sh "${asked[restarts]}" "${asked[processes]}" \
  env "${environment[@]}" "${command_words[@]}"
