#!/bin/bash
# readme.sh <README.md> <main.c>: the README's C program is the one that the install test builds and runs.
set -euo pipefail
diff <(awk '/^```c$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$1") "$2"
echo "the README's program is $2"
