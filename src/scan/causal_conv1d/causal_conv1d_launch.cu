#include <algorithm>
#include <initializer_list>

#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "scan/causal_conv1d/causal_conv1d_kernel_backward.cuh"
#include "scan/causal_conv1d/causal_conv1d_kernel_backward_sums.cuh"
#include "scan/causal_conv1d/causal_conv1d_kernel_forward.cuh"
#include "scan/scan_blocks.hpp"

namespace hax::causal_conv1d {
namespace {

// Calls f(Shape) with the kernel shape that fits: vectors of Bytes bytes, half as wide beyond 4 taps, and one channel
// at a time where tensors can't be moved so. Widths 5 to 8 share a kernel: their taps cost less than another kernel each.
template <class T, int Bytes, class F>
void dispatch_shape(int width, std::initializer_list<Tensor> moved, F&& f) {
  dispatch_value<2, 3, 4, kMaxWidth>(width, [&](auto w) {
    constexpr int V =
        std::max(1, Bytes / static_cast<int>(sizeof(T)) / (w.value == kMaxWidth ? 2 : 1));
    const bool vectors = std::all_of(moved.begin(), moved.end(), device::moves_in_vectors<V>);
    vectors ? f(Shape<T, V, w.value>{}) : f(Shape<T, 1, kMaxWidth>{});
  });
}

}  // namespace

void cuda_forward(const ForwardParams& p, const ForwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  dispatch_float(p.x.type, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_shape<T, kForwardBytes>(p.width, {p.x, p.y}, [&](auto shape) {
      using S = decltype(shape);
      const int64_t threads = p.sequences.batch * plan.tiles_per_row * (p.channels / S::V);
      launch.early(forward_kernel<S>, ceil_div(threads, kForwardThreads), kForwardThreads, 0, p,
                   plan);
    });
    if (!p.final_state) return;
    launch(final_state_kernel<T>, ceil_div(p.final_state.numel(), kStateThreads), kStateThreads, 0,
           p);
  });
}

void cuda_backward(const BackwardParams& p, const BackwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  dispatch_float(p.x.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (p.dx || p.sums()) {
      dispatch_shape<T, kBackwardBytes>(p.width, {p.x, p.dy, p.dx}, [&](auto shape) {
        using S = decltype(shape);
        const int64_t groups = ceil_div(p.channels / S::V, kBackwardLanes);
        launch.early(backward_kernel<S>, p.sequences.batch * plan.tiles_per_row * groups,
                     dim3(kBackwardLanes, kBackwardRuns), 0, p, plan);
      });
    }
    if (p.sums()) {
      launch.early(reduce_kernel, ceil_div((p.width + 1) * p.channels, kReduceLanes),
                   dim3(kReduceLanes, kReduceRuns), 0, p, plan);
    }
    if (p.dinitial_state) {
      launch(initial_state_kernel<T>, ceil_div(p.sequences.count() * p.channels, kInitialThreads),
             kInitialThreads, 0, p);
    }
  });
}

void cuda_step(const StepParams& p, void* stream) {
  const device::Launcher launch(p.device, stream, Step::name);
  dispatch_float(p.x.type, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_shape<T, kStepBytes>(p.width, {p.x, p.y, p.state}, [&](auto shape) {
      using S = decltype(shape);
      const int64_t threads = p.batch * (p.channels / S::V);
      launch(step_kernel<S>, ceil_div(threads, kStateThreads), kStateThreads, 0, p);
    });
  });
}

}  // namespace hax::causal_conv1d
