#!/usr/bin/env bash
# A run or a study on a TPU slice of the GKE cluster that kubectl talks to.
#
#   launch/gke.sh study CONFIG.py --accelerator=v5e:16x16 --image=IMAGE \
#     --run_dir=gs://BUCKET/FOLDER [--spot=true] [--queue=...] \
#     [--service_account=...] [--restarts=10] [--name=NAME] [--config.KEY=VALUE]
#
# The cluster starts it again after exit code 42 and death by signal.
# DRY_RUN=1 prints the manifest and the command. Needs JobSet in the cluster.
set -euo pipefail

if [[ ! -f launch/jobset.py ]]; then
  printf "launch: no launch/jobset.py here: start this from the %s\n" \
    "repository's root" >&2
  exit 2
fi
manifest=$(python3 launch/jobset.py "$@")
if [[ -n ${DRY_RUN:-} ]]; then
  printf "kubectl create --filename=- <<'JOBSET'\n%s\nJOBSET\n" "${manifest}"
else
  exec kubectl create --filename=- <<<"${manifest}"
fi
