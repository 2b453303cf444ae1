#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "scan/ssd/ssd_kernel_recurrent.cuh"
#include "scan/ssd/ssd_kernel_step.cuh"
#include "scan/ssd/ssd_launch.cuh"

namespace hax::ssd {
namespace {

// Calls f(TypeTag<RowShape>) for the narrowest shape that holds N states.
template <class F>
void dispatch_rows(int64_t states, F&& f) {
  if (states <= 16) return f(TypeTag<RowShape<4, 4>>{});
  if (states <= 32) return f(TypeTag<RowShape<8, 4>>{});
  if (states <= 64) return f(TypeTag<RowShape<16, 4>>{});
  if (states <= 128) return f(TypeTag<RowShape<32, 4>>{});
  f(TypeTag<RowShape<32, 8>>{});
}

// Whether rows of states can be moved in accesses of up to 16 bytes, Count states a lane.
template <int Count>
bool moves_in_vectors(const Tensor& tensor) {
  return size_of(tensor.type) == 2 ? device::moves_in_vectors<Count>(tensor)
                                   : device::moves_in_vectors<4>(tensor);
}

constexpr int kFlagThreads = 256;

__global__ void __launch_bounds__(kFlagThreads) clear_flags_kernel(int* flags, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{kFlagThreads} + threadIdx.x;
  if (i < count) flags[i] = 0;
}

void clear_flags(const device::Launcher& launch, int* flags, int64_t count) {
  launch(clear_flags_kernel, ceil_div(count, kFlagThreads), kFlagThreads, 0, flags, count);
}

}  // namespace

CudaDevice cuda_device(hax_device device) {
  const device::Launcher launch(device, nullptr, Forward::name);
  return {launch.processors(), static_cast<int64_t>(launch.shared_memory()),
          launch.warpgroup_products()};
}

void cuda_forward(const ForwardParams& p, const CudaForwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  const auto run = [&]<class T>(TypeTag<T>) {
    if (plan.ready) clear_flags(launch, plan.ready, plan.slots * plan.units + 1);
    switch (plan.kernel) {
      case ForwardKernel::spans: return launch_spans<T>(launch, p, plan);
      case ForwardKernel::warpgroups: return launch_warpgroups<T>(launch, p, plan);
      case ForwardKernel::chunks: return launch_chunks<T>(launch, p, plan);
    }
  };
  if (p.x.type == Type::bf16) return run(TypeTag<bf16>{});
  if (p.x.type == Type::fp16) return run(TypeTag<fp16>{});
  const int64_t blocks = recurrent_blocks(p);
  dispatch_rows(p.states, [&](auto tag) {
    using S = typename decltype(tag)::type;
    launch(recurrent_kernel<S>, p.sequences.count() * blocks, kRecurrentThreads,
           sizeof(RecurrentShared<S>), p, blocks);
  });
}

void cuda_step(const StepParams& p, void* stream) {
  const device::Launcher launch(p.device, stream, Step::name);
  const auto units = static_cast<unsigned>(row_units(p));
  const unsigned blocks = (units + kStepUnits - 1) / kStepUnits;  // of a sequence
  dispatch_float(p.x.type, [&](auto type) {
    dispatch_rows(p.states, [&](auto tag) {
      using T = typename decltype(type)::type;
      using S = typename decltype(tag)::type;
      const bool vectors = moves_in_vectors<S::kStates>(p.state) &&
                           moves_in_vectors<S::kStates>(p.B) && moves_in_vectors<S::kStates>(p.C);
      launch(vectors ? step_kernel<T, S, true> : step_kernel<T, S, false>, p.batch * blocks,
             kStepThreads, 0, p, units, blocks);
    });
  });
}

}  // namespace hax::ssd
