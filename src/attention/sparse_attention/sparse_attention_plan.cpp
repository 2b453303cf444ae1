#include <algorithm>

#include "attention/sparse_attention/sparse_attention.hpp"
#include "core/backend.hpp"
#include "core/cpu_dispatch.hpp"

namespace hax::sparse_attention {
namespace {

// Lanes of fp32 that the kernels of a level work with.
int64_t lanes_of(CpuLevel level) {
  return level == CpuLevel::x86_64_v4 ? 16 : level == CpuLevel::x86_64_v3 ? 8 : 4;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether kernels can work on a (B, L, Hk, width) tensor itself.
bool has_whole_vectors(const Tensor& tensor, int64_t lanes) {
  return tensor.type == Type::fp32 && tensor.last_axis_contiguous() && tensor.shape[3] % lanes == 0;
}

// Whether one head's rows lie so far apart that a copy of them pays: measured, keys and values in one
// piece halve the time of 16,384 tokens of 8 heads.
bool is_scattered(const Tensor& tensor) {
  constexpr int64_t kNearFloats = 65536;
  return tensor.stride[1] != tensor.shape[3] && tensor.shape[1] * tensor.stride[1] > kNearFloats;
}

Rows plan_rows(const Tensor& tensor, int64_t lanes, bool copy) {
  Rows rows;
  if (!tensor) return rows;
  rows.copied = copy || !has_whole_vectors(tensor, lanes);
  rows.width = divide_up(tensor.shape[3], lanes) * lanes;
  rows.slot_stride = tensor.shape[1] * rows.width;
  if (rows.copied) return rows;
  rows.data = static_cast<float*>(tensor.data);
  rows.batch_stride = tensor.stride[0];
  rows.token_stride = tensor.stride[1];
  rows.head_stride = tensor.stride[2];
  return rows;
}

// Workspace that a head's copy needs.
int64_t slot_bytes(const Rows& rows) { return rows.copied ? rows.slot_stride * 4 : 0; }

void take_slots(Rows& rows, int64_t slots, Workspace& workspace) {
  if (rows.copied) rows.data = workspace.take<float>(slots * rows.slot_stride);
}

// head_bytes: copies of one head. busy_heads: heads of a round that give all threads something to do.
Rounds plan_rounds(const Problem& p, int64_t head_bytes, int64_t busy_heads) {
  constexpr int64_t kUsualBytes = int64_t{256} << 20;
  constexpr int64_t kMostBytes = int64_t{768} << 20;
  const int64_t heads = std::max<int64_t>(p.sequences.batch * p.k_heads, 1);
  const auto within = [&](int64_t bytes) {
    return std::clamp<int64_t>(head_bytes > 0 ? bytes / head_bytes : heads, 1, heads);
  };
  const int64_t size = std::max(within(kUsualBytes), std::min(busy_heads, within(kMostBytes)));
  return {p.sequences.batch * p.k_heads, std::min(size, heads)};
}

int64_t tile_floats(const Problem& p, int64_t lanes, bool backward) {
  const int64_t width_qk = divide_up(p.d_qk, lanes) * lanes;
  const int64_t width_v = divide_up(p.d_v, lanes) * lanes;
  if (!backward) return kTileQueries * (width_qk + width_v + kTileKeys) + kTileKeys * p.d_qk;
  return kTileQueries * (2 * width_qk + width_v + 2 * kTileKeys) + kTileKeys * (p.d_qk + p.d_v);
}

template <class T>
PerThread<T> take_per_thread(Workspace& workspace, int threads, int64_t count) {
  constexpr int64_t kApart = 64 / sizeof(T);  // threads don't share cache lines
  const int64_t padded = divide_up(count, kApart) * kApart;
  return {workspace.take<T>(threads * padded), padded};
}

Scratch plan_scratch(const Problem& p, int64_t tasks, bool backward, const Context& context,
                     Workspace& workspace) {
  const int64_t most_tasks = std::max(tasks, p.sequences.count() * p.k_heads);
  const int64_t length = p.sequences.length;
  Scratch s;
  s.threads = static_cast<int>(std::clamp<int64_t>(most_tasks, 1, context.num_threads));
  if (p.pattern.has(HAX_PATTERN_FULL)) {
    s.tiles = take_per_thread<float>(workspace, s.threads,
                                     tile_floats(p, lanes_of(context.cpu_level), backward));
  } else if (p.pattern.has(HAX_PATTERN_KEY_SELECTION)) {
    s.active = take_per_thread<int32_t>(workspace, s.threads, length);
  }
  if (p.pattern.has(HAX_PATTERN_LSH)) {
    s.seen = take_per_thread<uint32_t>(workspace, s.threads, divide_up(length, 32));
  }
  return s;
}

// Sequences of one row of the batch, which are separate tasks.
int64_t streams_of(const Problem& p) {
  return p.sequences.packed() ? std::max<int64_t>(p.sequences.count(), 1) : 1;
}

// Parts that a sequence's queries are cut into, so that few heads also keep several threads busy. Each
// part sums gradients of keys and values of its own.
int64_t count_parts(const BackwardParams& p, int64_t bytes_per_part) {
  constexpr int64_t kTasks = 8;
  constexpr int64_t kMinQueries = 64;
  constexpr int64_t kMaxBytes = int64_t{512} << 20;
  const int64_t heads = std::max<int64_t>(p.sequences.count() * p.k_heads, 1);
  const int64_t wanted = std::min(divide_up(kTasks, heads), p.sequences.length / kMinQueries);
  const int64_t affordable = kMaxBytes / std::max<int64_t>(bytes_per_part, 1);
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(affordable, 2));
}

// gather: whether rows that lie scattered are copied, too.
BackwardPlan plan_rows_of_backward(const BackwardParams& p, const Context& context, bool gather) {
  const int64_t lanes = lanes_of(context.cpu_level);
  BackwardPlan plan;
  plan.parts = count_parts(p, p.sequences.length * (p.d_qk + p.d_v) * 4);
  const auto rows = [&](const Tensor& tensor, bool copy) {
    return plan_rows(tensor, lanes, copy || (gather && is_scattered(tensor)));
  };
  plan.k = rows(p.k, false);
  plan.v = rows(p.v, false);
  plan.dk = rows(p.dk, plan.parts > 1);
  plan.dv = rows(p.dv, plan.parts > 1);
  plan.rounds = plan_rounds(p,
                            slot_bytes(plan.k) + slot_bytes(plan.v) +
                                plan.parts * (slot_bytes(plan.dk) + slot_bytes(plan.dv)),
                            divide_up(context.num_threads, plan.parts * streams_of(p)));
  return plan;
}

}  // namespace

ForwardPlan Forward::plan(const ForwardParams& p, const Context& context, Workspace& workspace) {
  if (use_cuda(p.device, name)) {
    ForwardPlan plan;
    plan.cuda = plan_cuda_forward(p, workspace);
    return plan;
  }
  constexpr int64_t kMinTokens = 128;
  constexpr int64_t kMaxTiles = 64;  // a tile begins by looking through the evictions before it
  const int64_t lanes = lanes_of(context.cpu_level);
  ForwardPlan plan;
  plan.tile_tokens = std::max(kMinTokens, divide_up(p.sequences.length, kMaxTiles));
  plan.k = plan_rows(p.k, lanes, is_scattered(p.k));
  plan.v = plan_rows(p.v, lanes, is_scattered(p.v));
  const int64_t tiles = std::max<int64_t>(divide_up(p.sequences.length, plan.tile_tokens), 1);
  plan.rounds = plan_rounds(p, slot_bytes(plan.k) + slot_bytes(plan.v),
                            divide_up(context.num_threads, tiles));
  take_slots(plan.k, plan.rounds.size, workspace);
  take_slots(plan.v, plan.rounds.size, workspace);
  plan.scratch = plan_scratch(p, plan.rounds.size * tiles, false, context, workspace);
  return plan;
}

void Forward::run(const ForwardParams& p, const ForwardPlan& plan, const Context& context,
                  void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_forward(p, plan.cuda, stream);
  }
  check_indices(name, p, plan.scratch);
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_forward<level.value>(p, plan, context.num_threads); });
}

BackwardPlan Backward::plan(const BackwardParams& p, const Context& context, Workspace& workspace) {
  if (use_cuda(p.device, name)) {
    BackwardPlan plan = {};
    plan.cuda = plan_cuda_backward(p, workspace);
    return plan;
  }
  BackwardPlan plan = plan_rows_of_backward(p, context, true);
  const int64_t tasks_of_head = plan.parts * streams_of(p);
  if (plan.rounds.size <
      std::min(plan.rounds.heads, divide_up(context.num_threads, tasks_of_head))) {
    plan = plan_rows_of_backward(p, context, false);
  }
  for (Rows* rows : {&plan.k, &plan.v}) take_slots(*rows, plan.rounds.size, workspace);
  for (Rows* rows : {&plan.dk, &plan.dv}) {
    take_slots(*rows, plan.parts * plan.rounds.size, workspace);
  }
  plan.scratch = plan_scratch(p, plan.rounds.size * tasks_of_head, true, context, workspace);
  return plan;
}

void Backward::run(const BackwardParams& p, const BackwardPlan& plan, const Context& context,
                   void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_backward(p, plan.cuda, stream);
  }
  check_indices(name, p, plan.scratch);
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_backward<level.value>(p, plan, context.num_threads); });
}

}  // namespace hax::sparse_attention
