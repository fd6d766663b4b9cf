#!/bin/bash
# Runs each planted mistake in each mode of the emulation and prints which noticed it: planted.sh FOLDER_OF_PROGRAMS.
# Fails where one is noticed by none, or something is noticed where nothing is wrong.
set -uo pipefail
programs=$1
modes=(schedules deferred asan tsan)
bad=0
printf '%-28s %-10s %-10s %-10s %-10s %s\n' mistake "${modes[@]}" "what the first one says"
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
  printf '%-28s %-10s %-10s %-10s %-10s %s\n' "$name" "${row[@]}" "$first"
  case $name in
    none*) [[ " ${row[*]} " != *noticed* ]] || bad=1 ;;
    *) [[ " ${row[*]} " == *noticed* ]] || bad=1 ;;
  esac
done
[ $bad = 0 ] || echo "planted: a mistake went by, or something was noticed where nothing is wrong"
exit $bad
