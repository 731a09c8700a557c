#!/usr/bin/env bash
# A run or a study on a TPU slice of its own, by a queued resource.
#
#   launch/tpu_vm.sh study CONFIG.py --accelerator=v5e:16x16 --zone=ZONE \
#     --project=PROJECT --image=IMAGE --run_dir=gs://BUCKET/FOLDER \
#     [--spot=true] [--delete=true] [--patience=6h] [--restarts=10] \
#     [--service_account=...] [--name=NAME] [--config.KEY=VALUE ...]
#
# Asks for the slice unless it is there, runs the image on all hosts, and starts
# again after exit code 42 and death by signal; a slice that was taken away is
# asked for again. SIGTERM and Ctrl-C are handed to the run, which saves; its
# exit code is this one's. Started again, it goes on. DRY_RUN=1 prints the
# commands. The slice stays unless --delete=true.
#
# shellcheck disable=SC2310  # what a condition calls is one command
set -euo pipefail
# shellcheck source=launch/shared.sh
source "${BASH_SOURCE[0]%/*}/shared.sh"

seconds=${RLFT_POLL_SECONDS:-30}
state=''    # of the queued resource
answers=0   # of gcloud, less those it owes
running=''  # on the hosts
started=''  # there, this time
stopping='' # a signal was heard
attempt=0
code=0

tpus() {
  perform gcloud compute tpus "$@" \
    --zone="${asked[zone]}" --project="${asked[project]}"
}

# On all hosts, by ssh.
everywhere() {
  local line
  line=$(show bash rlft_worker.sh "$@")
  tpus tpu-vm ssh "${asked[name]}" --worker=all --command="${line}"
}

read_state() {
  local -a list=(queued-resources list
    --filter="name~/queuedResources/${asked[name]}\$"
    --format='value(state.state)')
  if [[ -n ${DRY_RUN:-} ]]; then
    tpus "${list[@]}"
  elif state=$(tpus "${list[@]}"); then
    answers=20
  elif ((answers > 0)); then # the network comes back, a wrong project does not
    answers=$((answers - 1))
    state=UNKNOWN
  else
    say 'gcloud does not say whether the slice is there: see above'
    exit 2
  fi
}

create() {
  local -a more=()
  if [[ ${asked[spot]} == true ]]; then more+=(--spot); fi
  if [[ -n ${asked[patience]} ]]; then
    more+=(--valid-until-duration="${asked[patience]}")
  fi
  if [[ -n ${asked[service_account]} ]]; then
    more+=(--service-account="${asked[service_account]}")
  fi
  tpus queued-resources create "${asked[name]}" --node-id="${asked[name]}" \
    --accelerator-type="${asked[type]}" \
    --runtime-version="${asked[runtime]}" --scopes=cloud-platform "${more[@]}"
}

delete() {
  tpus queued-resources delete "${asked[name]}" --force --quiet
}

finish() {
  if [[ ${asked[delete]} == true ]] && ! delete; then
    say "the slice ${asked[name]} may still be there, and cost money"
  fi
  exit "$1"
}

pause() {
  sleep "${seconds}" &
  wait "$!" || return 0 # a signal ends it early
}

# Returns when the slice is there.
obtain() {
  read_state
  if [[ -n ${DRY_RUN:-} ]]; then
    create
    return
  fi
  while [[ ${state} != ACTIVE ]]; do
    case ${state} in
      '')
        if ! create; then
          say 'the slice cannot be asked for: see above'
          exit 2
        fi
        ;;
      # taken away; it does not come back by itself
      SUSPENDED) delete || say 'it cannot be deleted yet: see above' ;;
      FAILED)
        say "the slice cannot be had: gcloud compute tpus queued-resources" \
          "describe ${asked[name]} says why; delete it before another try"
        exit 2
        ;;
      *) say "the slice is ${state}" ;;
    esac
    pause
    if [[ -n ${stopping} ]]; then finish 42; fi
    read_state
  done
}

copy() {
  tpus tpu-vm scp launch/worker.sh "${asked[name]}:rlft_worker.sh" \
    --worker=all
}

# One run on all hosts, to its end.
run() {
  local -a options=()
  local each
  for each in "${environment[@]}"; do options+=(--env="${each}"); done
  everywhere run "${asked[name]}.${attempt}" "${asked[image]}" \
    "${options[@]}" -- "${command_words[@]}"
}

hand_on() {
  heard=1
  stopping=1
  if [[ -n ${running} ]]; then
    say 'the run is asked to save and to end'
    everywhere stop "${asked[name]}.${attempt}" &
  fi
}

# Why a run ended: of the codes of all hosts gcloud gives the first that is
# not 0. A slice that is no longer there has no say.
judge() {
  local codes
  if [[ -n ${started} ]] &&
    codes=$(everywhere code "${asked[name]}.${attempt}"); then
    code=$(verdict "${code}" "${asked[hosts]}" <<<"${codes}")
  fi
  read_state
  if [[ ${state} != ACTIVE && ${state} != UNKNOWN ]]; then code=137; fi
}

main() {
  read_request tpu_vm "$@"
  if [[ -n ${DRY_RUN:-} ]]; then
    obtain
    copy
    run
    finish 0
  fi
  trap hand_on TERM INT
  while true; do
    obtain
    code=255
    started=''
    if copy; then
      if [[ -n ${stopping} ]]; then finish 42; fi
      running=1
      started=1
      run &
      await "$!"
      running=''
    fi
    if ((code == 0)); then finish 0; fi
    judge
    say "ended with exit code ${code}"
    if [[ -n ${stopping} ]] || ! again "${code}"; then finish "${code}"; fi
    if ((attempt >= asked[restarts])); then
      say "started ${attempt} times again, which is the limit (--restarts)"
      finish "${code}"
    fi
    attempt=$((attempt + 1))
    pause
  done
}

main "$@"
