#!/bin/bash
# Runs each planted mistake in modes of the emulation and prints which noticed it: planted.sh FOLDER_OF_PROGRAMS MODE...
# (schedules, deferred, asan, tsan). Fails where one is noticed by none, but for what only sanitizers see where they are
# not among the modes, or where something is noticed and nothing is wrong.
set -uo pipefail
programs=$1
modes=("${@:2}")
only_sanitizers='missing_syncwarp shared_row_out_of_bounds global_out_of_bounds plain_add_to_global misaligned_vector'
[[ " ${modes[*]} " != *" asan "* ]] || only_sanitizers=
bad=0
((${#modes[@]})) || { echo "planted: which modes? (schedules deferred asan tsan)" >&2; exit 2; }
line() {  # name, one column per mode, text
  printf '%-28s' "$1"
  printf ' %-10s' "${@:2:${#modes[@]}}"
  printf ' %s\n' "${*: -1}"
}
line mistake "${modes[@]}" "what the first one says"
for name in $("$programs/planted" --list); do
  row=() first=
  for mode in "${modes[@]}"; do
    case $mode in
      schedules) program=planted environment=() ;;
      deferred) program=planted environment=(UPCYCLE_EMUL_STREAMS=deferred UPCYCLE_EMUL_GUARD=1) ;;
      asan) program=planted_asan environment=(ASAN_OPTIONS=detect_leaks=0) ;;
      tsan) program=planted_tsan environment=(TSAN_OPTIONS=halt_on_error=1:exitcode=66) ;;
    esac
    text=$(env "${environment[@]}" timeout 60 "$programs/$program" "$name" 2>&1) && row+=(-) && continue
    row+=(noticed)
    [ -n "$first" ] || first=$(grep -vE '^=+$|^$' <<<"$text" | head -1 | cut -c1-100)
  done
  line "$name" "${row[@]}" "$first"
  case $name in
    none*) [[ " ${row[*]} " != *noticed* ]] || bad=1 ;;
    *) [[ " ${row[*]} " == *noticed* || " $only_sanitizers " == *" $name "* ]] || bad=1 ;;
  esac
done
[ $bad = 0 ] || echo "planted: a mistake went by, or something was noticed where nothing is wrong"
exit $bad
