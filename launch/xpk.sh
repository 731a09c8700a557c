#!/usr/bin/env bash
# A run or a study on a TPU slice of a GKE cluster that xpk made.
#
#   launch/xpk.sh study CONFIG.py --accelerator=v5e:16x16 --cluster=CLUSTER \
#     --zone=ZONE --project=PROJECT --image=IMAGE \
#     --run_dir=gs://BUCKET/FOLDER [--restarts=10] [--name=NAME] \
#     [--config.KEY=VALUE ...]
#
# Exit code 42, 127 and death by signal start it again: that is xpk's own rule.
# DRY_RUN=1 prints the command.
set -euo pipefail
# shellcheck source=launch/shared.sh
source "${BASH_SOURCE[0]%/*}/shared.sh"

read_request xpk "$@"
# xpk hands SIGTERM to a shell around the command, which exec makes Python
line=$(show exec env "${environment[@]}" "${command_words[@]}")
perform xpk workload create --workload="${asked[name]}" \
  --cluster="${asked[cluster]}" --zone="${asked[zone]}" \
  --project="${asked[project]}" --tpu-type="${asked[type]}" --num-slices=1 \
  --docker-image="${asked[image]}" --max-restarts="${asked[restarts]}" \
  --termination-grace-period-seconds=120 --command="${line}"
