# shellcheck shell=bash
# What the launchers share; they source it, from the repository's root.
# shellcheck disable=SC2034  # what is set here is read there

declare -A asked=() # the options of the request
environment=()      # KEY=VALUE of each process
command_words=()    # rlft run ...
heard=''            # a signal, since this was last emptied

say() {
  printf 'launch: %s\n' "$*" >&2
}

# Fills the three above from what the caller typed; ends with its exit code
# when that cannot be launched.
read_request() {
  local text line
  if [[ ! -f launch/request.py ]]; then
    say "no launch/request.py here: start this from the repository's root"
    exit 2
  fi
  text=$(python3 launch/request.py "$@")
  while IFS= read -r line; do
    case ${line} in
      WORD=*) command_words+=("${line#*=}") ;;
      ENV=*) environment+=("${line#*=}") ;;
      *) asked["${line%%=*}"]=${line#*=} ;;
    esac
  done <<<"${text}"
}

# A command as it could be typed.
show() {
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

# Runs a command, or only shows it.
perform() {
  if [[ -n ${DRY_RUN:-} ]]; then
    show "$@"
  else
    "$@"
  fi
}

# Waits for a process in the background, whatever signals are heard meanwhile:
# a trap that sets `heard` ends `wait` early. Its exit code is in `code`.
await() {
  while true; do
    heard=''
    code=0
    wait "$1" || code=$?
    [[ -n ${heard} ]] || return 0
  done
}

# The code that tells why several processes ended: verdict WHOLE COUNT, with
# their own on standard input. As in launch/local.py: one that was killed is the
# cause, then one that failed; one that aborts (134) or is ended (143) because
# another is gone is not. The code of the whole counts where some are not known.
verdict() {
  local whole=$1 count=$2 each killed='' failed='' most=0 seen=0
  while IFS= read -r each; do
    [[ ${each} =~ ^(0|[1-9][0-9]{0,2})$ ]] || continue
    seen=$((seen + 1))
    most=$((each > most ? each : most))
    case ${each} in
      0 | 42 | 134 | 143) ;;
      *) if ((each >= 128)); then killed=${each}; else failed=${each}; fi ;;
    esac
  done
  if ((seen == count)); then whole=${most}; fi
  printf '%s\n' "${killed:-${failed:-${whole}}}"
}

# Whether a run that ended so asks to be started again (docs/exit_codes.md).
again() {
  (($1 == 42 || $1 >= 128))
}
