#!/usr/bin/env bash
# On each host of a TPU slice: the run, in a container that outlives the
# connection.
#
#   worker.sh run NAME IMAGE [--env=KEY=VALUE ...] -- COMMAND ...
#   worker.sh stop NAME    hands SIGTERM to it
#   worker.sh code NAME    prints the exit code that it ends with
set -euo pipefail

# Starts it, or goes on watching when the connection was lost; its exit code.
watch() {
  local name=$1 image=$2 host=${2%%/*} running former each code
  local -a options=()
  shift 2
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  running=$(sudo docker ps --quiet --filter "name=^/${name}\$")
  if [[ -z ${running} ]]; then
    former=$(sudo docker ps --all --quiet --filter label=rlft)
    for each in ${former}; do # it would hold the chips
      sudo docker stop -t 60 "${each}"
      sudo docker rm "${each}"
    done
    if [[ ${host} == *-docker.pkg.dev ]]; then # with the rights of this VM
      sudo gcloud auth configure-docker "${host}" --quiet
    fi
    # --init hands SIGTERM on, which a first process would not hear by default
    sudo docker run --detach --init --privileged --network=host --label=rlft \
      --name="${name}" "${options[@]}" "${image}" "$@"
  fi
  sudo docker logs --follow "${name}"
  code=$(sudo docker wait "${name}")
  exit "${code}"
}

case $1 in
  run) watch "${@:2}" ;;
  stop) exec sudo docker kill --signal=TERM "$2" ;;
  code) exec sudo docker wait "$2" ;;
  *)
    printf 'worker: run, stop or code, not %q\n' "$1" >&2
    exit 2
    ;;
esac
