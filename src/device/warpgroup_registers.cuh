// The sharing out of registers between warpgroups with different tasks.
#pragma once

namespace hax::device {

// Registers of a thread from here on; all of a warpgroup call it, and together the block's must fit.
template <int Count>
__device__ void claim_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

}  // namespace hax::device
