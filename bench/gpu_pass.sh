#!/bin/bash
# gpu_pass.sh [-f FILTER] [-b FILTER] [-s STEPS] [BUILD] [OUT]: everything that needs a GPU, in one go.
#   BUILD   folder with test_scan, bench_hax and libhax.so; configured and built there if it has none (default
#           build/gpu)
#   OUT     folder for logs and results (default bench/results)
#   -f      gtest filter of the tests; -b: benchmark filter; -s: steps, some of "test sanitize bench"
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests='CausalConv1d*:SelectiveScan*:CudaCalls*'
small='CausalConv1d.StateTypeIsItsOwn:CausalConv1d.WholeVectorsOfEveryType:CausalConv1dStep.*'
small+=':SelectiveScan.StateTypeIsItsOwn:SelectiveScan.EveryCombinationOfOptionalArguments:SelectiveScanStep.*'
rows='^cuda/'
steps='test sanitize bench'
while getopts f:b:s: option; do
  case $option in
    f) tests=$OPTARG small=$OPTARG ;;
    b) rows=$OPTARG ;;
    s) steps=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
build=${1:-build/gpu}
out=${2:-bench/results}
mkdir -p "$out"

find_program() {
  local found
  found=$(find "$build" -name "$1" -type f -perm -u+x 2>/dev/null | head -1)
  echo "${found:-$1}"
}
if [[ ! -x $(find_program test_scan) ]]; then
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DHAX_CUDA=ON -DHAX_BUILD_BENCH=ON \
    -DHAX_BUILD_EXAMPLES=OFF >"$out/configure.log" || exit 1
  cmake --build "$build" --target test_scan bench_hax >"$out/build.log" || { tail -40 "$out/build.log"; exit 1; }
fi
test_scan=$(find_program test_scan)
bench_hax=$(find_program bench_hax)
export LD_LIBRARY_PATH=$build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export HAX_TEST_DEVICE=cuda
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)
commit=${HAX_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}
echo "GPU $gpu, driver $driver, commit $commit"
status=0

if [[ $steps == *test* ]]; then
  "$test_scan" --gtest_filter="$tests" --gtest_brief=1 >"$out/test_scan.log" 2>&1 || status=1
  grep -v '^Running\|^$' "$out/test_scan.log" | head -40
  tail -12 "$out/test_scan.log"
fi

if [[ $steps == *sanitize* ]]; then
  for tool in memcheck racecheck initcheck synccheck; do
    timeout 150 compute-sanitizer --tool "$tool" --error-exitcode 9 "$test_scan" --gtest_filter="$small" \
      --gtest_brief=1 >"$out/$tool.log" 2>&1 || { status=1; echo "$tool FAILED"; head -30 "$out/$tool.log"; }
    echo "$tool: $(grep 'SUMMARY' "$out/$tool.log")"
  done
fi

if [[ $steps == *bench* ]]; then
  "$bench_hax" --benchmark_filter="$rows" --benchmark_counters_tabular=true \
    --benchmark_context=driver="$driver",commit="$commit" \
    --benchmark_out="$out/gpu_scan.json" --benchmark_out_format=json || status=1
fi
exit $status
