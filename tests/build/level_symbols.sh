#!/bin/bash
# level_symbols.sh <level> <cpu_level.hpp> <objects>...
# Nothing compiled for a higher CPU level can run by accident on a CPU without it. Every symbol the linker could share
# with other objects (global or weak) carries its level as a template argument or as its namespace, so that no inline
# function built with wide instructions replaces its plain twin; and no object has a static initialiser, which would
# run as the library loads.
set -euo pipefail
level=$1
header=$2
shift 2
[[ $# -gt 0 ]] || { echo "no objects given for level $level" >&2; exit 1; }

number=$(sed -n 's/^enum class CpuLevel {\(.*\)};/\1/p' "$header" | tr -d ' ' | tr ',' '\n' |
  grep -nx "$level" | cut -d: -f1)
[[ -n $number ]] || { echo "$header has no CpuLevel $level" >&2; exit 1; }
own="\(hax::CpuLevel\)$((number - 1))[^0-9]|\b$level::"

status=0
for object in "$@"; do
  symbols=$(nm --defined-only --format=posix "$object")
  # DW.ref.* are pointers to the exception personality, the same in every object.
  shared=$(awk '$2 ~ /[A-Zu]/ {print $1}' <<<"$symbols" | grep -v '^DW\.ref\.' | c++filt | grep -vE "$own" || true)
  initialisers=$(awk '{print $1}' <<<"$symbols" | grep '^_GLOBAL__sub_I_' || true)
  if [[ -n $shared ]]; then
    printf '%s: shared symbols that do not carry level %s:\n%s\n' "$object" "$level" "$shared" >&2
    status=1
  fi
  if [[ -n $initialisers ]]; then
    printf '%s: static initialiser %s\n' "$object" "$initialisers" >&2
    status=1
  fi
done
echo "$# objects of level $level"
exit $status
