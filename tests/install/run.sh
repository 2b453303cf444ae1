#!/bin/bash
# run.sh <cmake> <c compiler> <build folder> <consumer sources> <libdir> [compiler flags]...
# Installs the build into a temporary prefix, moves that, and builds and runs the consumer through find_package
# (shared and static) and through pkg-config.
set -euo pipefail
cmake=$1 cc=$2 build=$3 consumer=$4 libdir=$5
shift 5
flags="$*"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$cmake" --install "$build" --prefix "$work/staged" >"$work/install.log" || { cat "$work/install.log"; exit 1; }
prefix=$work/moved
mv "$work/staged" "$prefix"

for library in hax::hax hax::static; do
  echo "== find_package, $library"
  "$cmake" -S "$consumer" -B "$work/$library" -G Ninja -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flags" \
    -DCMAKE_PREFIX_PATH="$prefix" -DCONSUMER_LIBRARY="$library"
  "$cmake" --build "$work/$library"
  "$work/$library/consumer"
done

echo "== pkg-config"
export PKG_CONFIG_PATH=$prefix/$libdir/pkgconfig
# pkg-config's answers and the flags are lists of words.
# shellcheck disable=SC2046,SC2086
"$cc" -std=c11 -pedantic -Wall -Wextra -Werror $flags $(pkg-config --cflags hax) "$consumer/main.c" \
  -o "$work/consumer" $(pkg-config --libs hax) -Wl,-rpath,"$(pkg-config --variable=libdir hax)"
"$work/consumer"
# shellcheck disable=SC2046,SC2086
"$cc" -std=c11 $flags $(pkg-config --cflags hax) "$consumer/main.c" -o "$work/consumer_static" \
  "$(pkg-config --variable=libdir hax)/libhax.a" $(pkg-config --libs --static hax | sed 's/-lhax//')
"$work/consumer_static"
