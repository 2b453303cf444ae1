#include "core/backend.hpp"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {
namespace {

Tensor compact(const Tensor& like, void* data) {
  Tensor tensor = like;
  tensor.data = data;
  int64_t stride = 1;
  for (int axis = like.ndim - 1; axis >= 0; --axis) {
    tensor.stride[axis] = stride;
    stride *= like.shape[axis];
  }
  return tensor;
}

bool has_warpgroup_gradients(hax_device device) {
  if constexpr (kWithCuda) return cuda_has_warpgroup_gradients(device);
  return false;
}

CudaBackwardShape choose_shape(const BackwardParams& p) {
  if (p.x.type == Type::fp32) return kCudaBackwardShapes32[p.states > 32];
  if (p.states <= 32 && p.width <= 16) return kCudaBackwardShapes16[0];
  if (p.states <= 128 && has_warpgroup_gradients(p.device)) return kCudaBackwardShapes16[1];
  return kCudaBackwardShapes16[2];
}

}  // namespace

ForwardParams forward_without_gate(const BackwardParams& p, const Tensor& y) {
  ForwardParams forward;
  static_cast<Inputs&>(forward) = p;
  forward.z = {};
  forward.sequences = p.sequences;
  forward.initial_state = p.initial_state;
  forward.y = y;
  return forward;
}

// Blocks among which a group's units are shared out.
int64_t choose_shares(const CudaBackwardShape& shape, int64_t members, int64_t blocks) {
  constexpr int64_t kEnoughBlocks = 512, kProcessors = 132;
  if (shape.gradients != Gradients::by_warpgroups) {
    return smaller(members, ceil_div(kEnoughBlocks, blocks));
  }
  // A processor has one block at a time: the fewest shares that keep nine tenths of them busy.
  int64_t shares = 1;
  const auto busy = [&](int64_t n) {
    return static_cast<double>(blocks * n) / static_cast<double>(round_up(blocks * n, kProcessors));
  };
  for (int64_t n = 2; n <= members && busy(shares) < 0.9; ++n) {
    if (busy(n) > busy(shares)) shares = n;
  }
  return smaller(members, shares);
}

// Lengths of packed sequences are not known here, so those are not cut.
void plan_segments(const BackwardParams& p, CudaBackwardPlan& plan, Workspace& workspace) {
  constexpr int64_t kProcessors = 132, kLeastChunks = 8;
  const int64_t walks = 2 * p.sequences.count() * plan.units(p.heads);
  const int64_t chunks = plan.chunks.per_row(p.sequences);
  plan.segments = 1;
  plan.segment_chunks = larger(1, chunks);
  if (!p.sequences.packed() && walks > 0 && walks < kProcessors) {
    const int64_t segments = smaller(2 * kProcessors / walks, chunks / kLeastChunks);
    if (segments > 1) {
      plan.segment_chunks = ceil_div(chunks, segments);
      plan.segments = ceil_div(chunks, plan.segment_chunks);
    }
  }
  const int64_t sums = plan.segments > 1 ? walks * plan.segments : 0;
  plan.segment_states = workspace.take<float>(sums * plan.shape.width * plan.shape.states);
  plan.segment_decays = workspace.take<float>(sums);
}

CudaBackwardPlan plan_cuda_backward(const BackwardParams& p, Workspace& workspace) {
  CudaBackwardPlan plan;
  plan.shape = choose_shape(p);
  plan.chunks.tokens = plan.shape.tokens;
  plan.chunks.count = p.sequences.packed() ? p.length / plan.chunks.tokens + p.sequences.count()
                                           : p.batch * plan.chunks.per_row(p.sequences);
  plan.slices = ceil_div(p.width, plan.shape.width);
  const int64_t units = plan.units(p.heads);
  const int64_t members = p.groups > 0 ? units / p.groups : 0;
  const int64_t blocks = larger(1, plan.chunks.count * p.groups);
  plan.shares = choose_shares(plan.shape, members, blocks);
  plan.skip_columns = p.D.ndim == 2 ? plan.shape.width : 1;

  const int64_t per_head = plan.chunks.count * p.heads, tokens = plan.chunks.tokens;
  const auto size = static_cast<int64_t>(size_of(p.x.type));
  const auto take = [&](int64_t count) { return workspace.take<char>(count * size); };
  plan.g = p.z ? compact(p.dy, take(p.dy.numel())) : p.dy;
  if (p.dz) {
    plan.y = compact(p.dy, take(p.dy.numel()));
    plan.forward = plan_cuda_forward(forward_without_gate(p, plan.y), workspace);
  }
  plan.steps = workspace.take<float>(per_head * 3 * tokens);
  plan.decays = workspace.take<float>(per_head * 4);
  plan.weights = take(2 * per_head * tokens);
  plan.states = take(2 * plan.chunks.count * units * plan.shape.width * plan.shape.states);
  plan_segments(p, plan, workspace);
  const bool apart = plan.shape.gradients == Gradients::apart;
  const bool sums = plan.shape.gradients != Gradients::by_warps;
  plan.parts = apart ? 2 : 1;
  plan.dscores = take(apart ? plan.shares * plan.chunks.count * p.groups * tokens * tokens : 0);
  plan.step_sums = workspace.take<float>(sums ? plan.parts * plan.slices * per_head * tokens : 0);
  const bool several = plan.shares > 1 && (p.dB || p.dC);
  plan.gradients = workspace.take<float>(
      several ? plan.shares * p.batch * p.length * p.groups * 2 * p.states : 0);
  if (!several) plan.gradients = nullptr;
  plan.dA = workspace.take<float>(plan.parts * plan.chunks.count * units);
  plan.dD = workspace.take<float>(p.dD ? plan.chunks.count * units * plan.skip_columns : 0);
  plan.dbias = workspace.take<float>(per_head);
  return plan;
}

}  // namespace hax::ssd
