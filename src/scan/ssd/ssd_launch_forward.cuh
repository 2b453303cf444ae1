// What the launches of the forward of 16-bit activations share.
#pragma once

#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "scan/ssd/ssd_kernel_forward_memory.cuh"
#include "scan/ssd/ssd_kernel_forward_shares.cuh"
#include "scan/ssd/ssd_launch.cuh"

namespace hax::ssd {

inline ForwardAccess access_of(const ForwardParams& p) {
  return {device::moves_in_vectors<8>(p.x), device::moves_in_vectors<8>(p.z),
          device::moves_in_vectors<8>(p.y),
          device::moves_in_vectors<8>(p.B) && device::moves_in_vectors<8>(p.C)};
}

// A state that leaves the kernel in more bits than T has is made of two products.
inline bool splits_inputs(const ForwardParams& p) {
  const auto wide = [&](const Tensor& states) { return states && states.type != p.x.type; };
  return wide(p.final_state) || wide(p.checkpoints.states);
}

// Whether Pass::plain_outputs will do.
inline bool is_plain(const ForwardParams& p) {
  const ForwardAccess access = access_of(p);
  return !p.z && !(p.D && p.D.ndim == 2) && !p.checkpoints && access.x && access.y && access.states;
}

// Blocks of the kernel that writes y, and of the one that makes the states before it.
inline int64_t forward_blocks(const ForwardParams& p, const CudaForwardPlan& plan) {
  return plan.slots > 0 ? plan.slots : p.sequences.count() * unit_blocks(p, plan) * plan.segments;
}
inline int64_t first_pass_blocks(const ForwardParams& p, const CudaForwardPlan& plan) {
  return p.sequences.count() * unit_blocks(p, plan) * (plan.segments - 1);
}

}  // namespace hax::ssd
