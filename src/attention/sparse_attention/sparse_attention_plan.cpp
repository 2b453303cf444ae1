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

// Whether kernels can work on a (B, L, Hk, width) tensor in place.
bool has_whole_vectors(const Tensor& tensor, int64_t lanes) {
  return tensor.type == Type::fp32 && tensor.last_axis_contiguous() && tensor.shape[3] % lanes == 0;
}

Rows rows_of(const Tensor& tensor) {
  return {static_cast<float*>(tensor.data), tensor.shape[3], tensor.stride[0], tensor.stride[1],
          tensor.stride[2]};
}

Operand plan_operand(const Tensor& tensor, int64_t lanes, Workspace& workspace) {
  if (has_whole_vectors(tensor, lanes)) return {rows_of(tensor), false};
  const int64_t width = divide_up(tensor.shape[3], lanes) * lanes;
  const int64_t batch = tensor.shape[0], length = tensor.shape[1], heads = tensor.shape[2];
  Rows rows = {nullptr, width, heads * length * width, width, length * width};
  rows.data = workspace.take<float>(batch * rows.batch_stride);
  return {rows, true};
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

Scratch plan_scratch(const Problem& p, int64_t tasks, int64_t lanes, bool backward,
                     const Context& context, Workspace& workspace) {
  const int64_t most_tasks = std::max(tasks, p.sequences.count() * p.k_heads);
  const int64_t length = p.sequences.length;
  Scratch s;
  s.threads = static_cast<int>(std::clamp<int64_t>(most_tasks, 1, context.num_threads));
  if (p.pattern.has(HAX_PATTERN_FULL)) {
    s.tiles = take_per_thread<float>(workspace, s.threads, tile_floats(p, lanes, backward));
  } else if (p.pattern.has(HAX_PATTERN_KEY_SELECTION)) {
    s.active = take_per_thread<int32_t>(workspace, s.threads, length);
  }
  if (p.pattern.has(HAX_PATTERN_LSH)) {
    s.seen = take_per_thread<uint32_t>(workspace, s.threads, divide_up(length, 32));
  }
  return s;
}

// Parts that a sequence's queries are cut into, so that few heads also keep several threads busy. Each
// part has gradients of keys and values of its own, which are kept below kMaxPartBytes.
int64_t count_parts(const BackwardParams& p) {
  constexpr int64_t kTasks = 8;
  constexpr int64_t kMinQueries = 64;
  constexpr int64_t kMaxPartBytes = int64_t{512} << 20;
  const int64_t heads = std::max<int64_t>(p.sequences.count() * p.k_heads, 1);
  const int64_t bytes = std::max<int64_t>(
      p.sequences.batch * p.k_heads * p.sequences.length * (p.d_qk + p.d_v) * 4, 1);
  const int64_t wanted = std::min(divide_up(kTasks, heads), p.sequences.length / kMinQueries);
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(kMaxPartBytes / bytes, 2));
}

Sum plan_sum(const Tensor& output, int64_t parts, const Scratch& scratch, int64_t lanes,
             Workspace& workspace) {
  Sum sum;
  if (!output) return sum;
  sum.width = divide_up(output.shape[3], lanes) * lanes;
  const int64_t heads = output.shape[0] * output.shape[2];
  int64_t slots = parts * heads;
  if (parts > 1) {
    sum.place = SumPlace::part;
  } else if (has_whole_vectors(output, lanes)) {
    sum.place = SumPlace::output;
    sum.rows = rows_of(output);
    return sum;
  } else if (heads <= scratch.threads) {
    sum.place = SumPlace::head;
  } else {
    sum.place = SumPlace::thread;
    slots = scratch.threads;
  }
  sum.slots = workspace.take<float>(slots * output.shape[1] * sum.width);
  return sum;
}

}  // namespace

ForwardPlan Forward::plan(const ForwardParams& p, const Context& context, Workspace& workspace) {
  require_cpu(p.device, name);
  constexpr int64_t kMinTokens = 128;
  constexpr int64_t kMaxTiles = 64;  // a tile begins by looking through the evictions before it
  const int64_t lanes = lanes_of(context.cpu_level);
  ForwardPlan plan;
  plan.tile_tokens = std::max(kMinTokens, divide_up(p.sequences.length, kMaxTiles));
  const int64_t tasks =
      p.sequences.batch * p.k_heads * divide_up(p.sequences.length, plan.tile_tokens);
  plan.k = plan_operand(p.k, lanes, workspace);
  plan.v = plan_operand(p.v, lanes, workspace);
  plan.scratch = plan_scratch(p, tasks, lanes, false, context, workspace);
  return plan;
}

void Forward::run(const ForwardParams& p, const ForwardPlan& plan, const Context& context, void*) {
  check_indices(name, p, plan.scratch);
  with_cpu_level(context.cpu_level, [&](auto level) {
    cpu_copy_operands<level.value>(p, plan.k, plan.v, context.num_threads);
    cpu_forward<level.value>(p, plan);
  });
}

BackwardPlan Backward::plan(const BackwardParams& p, const Context& context, Workspace& workspace) {
  require_cpu(p.device, name);
  const int64_t lanes = lanes_of(context.cpu_level);
  BackwardPlan plan;
  plan.parts = count_parts(p);
  const int64_t tasks = plan.parts * p.sequences.count() * p.k_heads;
  plan.k = plan_operand(p.k, lanes, workspace);
  plan.v = plan_operand(p.v, lanes, workspace);
  plan.scratch = plan_scratch(p, tasks, lanes, true, context, workspace);
  plan.dk = plan_sum(p.dk, plan.parts, plan.scratch, lanes, workspace);
  plan.dv = plan_sum(p.dv, plan.parts, plan.scratch, lanes, workspace);
  return plan;
}

void Backward::run(const BackwardParams& p, const BackwardPlan& plan, const Context& context,
                   void*) {
  check_indices(name, p, plan.scratch);
  with_cpu_level(context.cpu_level, [&](auto level) {
    cpu_copy_operands<level.value>(p, plan.k, plan.v, context.num_threads);
    cpu_backward<level.value>(p, plan, context.num_threads);
  });
}

}  // namespace hax::sparse_attention
