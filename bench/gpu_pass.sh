#!/bin/bash
# gpu_pass.sh [-f FILTER] [-b FILTER] [-s STEPS] [BUILD] [OUT]: everything that needs a GPU, in one go.
#   BUILD   folder with test_scan, test_hash, test_attention, bench_hax and libhax.so; configured and built there if it
#           has none (default build/gpu)
#   OUT     folder for logs and the pass's result, gpu_<GPU>_<date>_<commit>.json (default bench/results)
#   -f      gtest filter of the tests; -b: benchmark filter
#   -s      steps, some of "test sanitize bench compare"; compare needs a python3 with torch
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

programs='test_scan test_hash test_attention'
# Small shapes of every operator, for compute-sanitizer: it slows a kernel down a hundredfold.
small='CausalConv1d.StateTypeIsItsOwn:CausalConv1d.WholeVectorsOfEveryType:CausalConv1dStep.*'
small+=':SelectiveScan.StateTypeIsItsOwn:SelectiveScan.EveryCombinationOfOptionalArguments:SelectiveScanStep.*'
small+=':Ssd.StateTypeIsItsOwn:Ssd.EveryCombinationOfOptionalArguments:SsdStep.*'
small+=':LshHash.*:LshBucket.*:KeyScore.*:RankingLoss.*:KeySelect.*:SparseAttention.*:LayerAttention.*'
tests='*'
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
  # shellcheck disable=SC2086
  cmake --build "$build" --target $programs bench_hax >"$out/build.log" || { tail -40 "$out/build.log"; exit 1; }
fi
export LD_LIBRARY_PATH=$build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export HAX_TEST_DEVICE=cuda
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)
commit=${HAX_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}
result=gpu_$(tr -cs 'A-Za-z0-9\n' - <<<"${gpu#NVIDIA }")_$(date -u +%Y%m%dT%H%MZ)_$commit
echo "GPU $gpu, driver $driver, commit $commit"
status=0

if [[ $steps == *test* ]]; then
  for program in $programs; do
    "$(find_program "$program")" --gtest_filter="$tests" --gtest_brief=1 >"$out/$program.log" 2>&1 || status=1
    echo "$program:"
    grep -v '^Running\|^$' "$out/$program.log" | head -40
    tail -12 "$out/$program.log"
  done
fi

if [[ $steps == *sanitize* ]]; then
  for tool in memcheck racecheck initcheck synccheck; do
    for program in $programs; do
      log=$out/$tool-$program.log
      timeout 300 compute-sanitizer --tool "$tool" --error-exitcode 9 "$(find_program "$program")" \
        --gtest_filter="$small" --gtest_brief=1 >"$log" 2>&1 ||
        { status=1; echo "$tool $program FAILED"; head -30 "$log"; }
      echo "$tool $program: $(grep 'SUMMARY' "$log")"
    done
  done
fi

if [[ $steps == *bench* ]]; then
  "$(find_program bench_hax)" --benchmark_filter="$rows" --benchmark_counters_tabular=true \
    --benchmark_context=driver="$driver",commit="$commit" \
    --benchmark_out="$out/$result.json" --benchmark_out_format=json || status=1
fi

if [[ $steps == *compare* ]]; then
  HAX_LIBRARY=$(find "$build" -name libhax.so | head -1) HAX_COMMIT=$commit \
    python3 bench/compare/compare.py --json "$out/compare_${result#gpu_}.json" || status=1
fi
exit $status
