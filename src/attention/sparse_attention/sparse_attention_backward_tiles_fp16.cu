#include "attention/sparse_attention/sparse_attention_backward_tiles.cuh"

namespace hax::sparse_attention {

template bool launch_tiles<fp16>(const device::Launcher&, const BackwardParams&, TilePass,
                                 BackwardLaunch);

}  // namespace hax::sparse_attention
