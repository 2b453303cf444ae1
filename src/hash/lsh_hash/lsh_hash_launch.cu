#include <algorithm>

#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "hash/lsh_hash/lsh_hash_kernel_plain.cuh"
#include "hash/lsh_hash/lsh_hash_kernel_short.cuh"

namespace hax::lsh_hash {
namespace {

int64_t projection_bytes(const Params& p, int columns) {
  return feature_steps(p.features) * columns * kRPieces * kWarp *
         static_cast<int64_t>(sizeof(uint2));
}

// Shared memory of project_kernel.
size_t project_bytes(const Params& p, int columns) {
  int64_t rest = 0;
  if (p.statistics == HAX_LSH_STATISTICS_SEQUENCE) rest = kHeadGroup * 3 * norm_row(p.features);
  if (p.statistics == HAX_LSH_STATISTICS_CAUSAL) {
    rest = causal_tokens(p.features) * causal_row(p.features);
  }
  return projection_bytes(p, columns) + rest * sizeof(float);
}

template <class T, int Columns>
void run_short(const Params& p, const Params* other, bool vectors, const device::Launcher& launch) {
  constexpr int64_t kFewRows = 96;  // that leave multiprocessors free
  const auto rows_of = [](const Params& of) { return of.sequences.count() * of.heads; };
  ShortInputs inputs = {{p, other ? *other : p}, {rows_of(p), other ? rows_of(*other) : 0}, 1};
  const int64_t rows = inputs.rows[0] + inputs.rows[1];
  if (rows < kFewRows) inputs.parts = 2;
  const int64_t norms_at = std::max(projection_bytes(p, Columns), sum_bytes(p.features));
  launch.early(short_kernel<T, Columns>, rows * inputs.parts, kShortThreads,
               norms_at + 3 * norm_row(p.features) * sizeof(float), inputs, vectors, norms_at);
}

// Calls f(type, columns) with what the kernels are compiled for. Columns of 8 bits: as many as a
// code of 16 or a panel of 32 bits has.
template <class F>
void dispatch(const Params& p, F&& f) {
  dispatch_float(p.x.type, [&](auto type) {
    dispatch_value<2, 4>(p.bits <= 16 ? 2 : 4, [&](auto columns) { f(type, columns); });
  });
}

template <class T, int Columns>
void run_plain(const Params& p, bool vectors, const device::Launcher& launch) {
  const int64_t units =
      p.sequences.batch * head_groups(p.heads) * ceil_div(p.sequences.length, kRows);
  const int64_t blocks = int64_t{launch.processors()} * kPlainBlocks;
  launch.early(plain_kernel<T, Columns>, std::min(units, blocks), kProjectThreads,
               projection_bytes(p, Columns), p, vectors);
}

template <class T, int Columns>
void run_tiles(const Params& p, const CudaPlan& plan, bool vectors,
               const device::Launcher& launch) {
  const int64_t slots = p.cuda_tiles().slots();
  launch(sums_kernel<T>, slots * p.heads, kSumThreads, 0, p, plan);
  const bool few = p.sequences.longest <= 32 * kCudaTileTokens;
  launch(scan_kernel<T>, p.sequences.count() * p.heads, few ? 256 : kScanThreads, 0, p, plan);
  launch(project_kernel<T, Columns>,
         slots * head_groups(p.heads) * (kCudaTileTokens / kProjectTokens), kProjectThreads,
         project_bytes(p, Columns), p, plan, vectors);
}

}  // namespace

void cuda_forward(const Params& p, const CudaPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  if (p.sequences.batch * p.heads * p.sequences.length == 0) return;
  const bool vectors = features_move_in_vectors(p.x);
  dispatch(p, [&](auto type, auto columns) {
    using T = typename decltype(type)::type;
    if (p.statistics == HAX_LSH_STATISTICS_NONE) {
      return run_plain<T, columns.value>(p, vectors, launch);
    }
    if (p.short_rows()) {
      run_short<T, columns.value>(p, nullptr, vectors, launch);
    }
    if (p.long_rows()) run_tiles<T, columns.value>(p, plan, vectors, launch);
  });
}

void cuda_forward_both(const Params& p, const Params& other, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  if (p.sequences.batch * p.heads * p.sequences.length == 0) return;
  const bool vectors = features_move_in_vectors(p.x) && features_move_in_vectors(other.x);
  dispatch(p, [&](auto type, auto columns) {
    using T = typename decltype(type)::type;
    run_short<T, columns.value>(p, &other, vectors, launch);
  });
}

}  // namespace hax::lsh_hash
