#!/bin/bash
# exports.sh <libhax.so> <include folder>: the library exports exactly the functions its headers declare, all hax_*.
set -euo pipefail
library=$1
include=$2

exported=$(nm -D --defined-only --format=posix "$library" | cut -d' ' -f1 | sort -u)
declared=$(cat "$include"/hax/*.h | tr '\n' ' ' | grep -oP 'HAX_API[^;()]*?\bhax_\w+ *\(' |
  grep -oP 'hax_\w+(?= *\()' | sort -u)

[[ -n $exported ]] || { echo "$library exports nothing" >&2; exit 1; }
foreign=$(grep -v '^hax_' <<<"$exported" || true)
surplus=$(comm -23 <(echo "$exported") <(echo "$declared"))
missing=$(comm -13 <(echo "$exported") <(echo "$declared"))
status=0
[[ -z $foreign ]] || { printf 'exported, yet not named hax_*:\n%s\n' "$foreign" >&2; status=1; }
[[ -z $surplus ]] || { printf 'exported, yet in no header:\n%s\n' "$surplus" >&2; status=1; }
[[ -z $missing ]] || { printf 'declared, yet not exported:\n%s\n' "$missing" >&2; status=1; }
echo "$(wc -l <<<"$exported") functions exported, $(wc -l <<<"$declared") declared"
exit $status
