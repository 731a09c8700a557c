#!/usr/bin/env bash
# One process of a Slurm job: slurm_task.sh CODES COMMAND ... puts the exit code
# into CODES/RANK.
set -euo pipefail
# shellcheck source=launch/shared.sh
source "${BASH_SOURCE[0]%/*}/shared.sh"
: "${SLURM_NTASKS:?}" "${SLURM_PROCID:?}"

codes=$1
shift
# Alone, it is the command: a second SIGTERM, from Slurm and from here, would
# end it before it has saved. One of several hears the first only.
if ((SLURM_NTASKS == 1)); then exec "$@"; fi

"$@" &
child=$!
trap 'heard=1; kill -TERM "${child}" || say "the process had ended"' TERM
await "${child}"
printf '%s\n' "${code}" >"${codes}/${SLURM_PROCID}"
exit "${code}"
