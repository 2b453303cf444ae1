/* hax: fused kernels for state-space models with context-dependent sparse attention. This header
 * includes all others. */
#ifndef HAX_HAX_H_
#define HAX_HAX_H_

#include "hax/base.h"
#include "hax/causal_conv1d.h"
#include "hax/context.h"
#include "hax/key_selection.h"
#include "hax/layer_attention.h"
#include "hax/lsh.h"
#include "hax/selective_scan.h"
#include "hax/sparse_attention.h"
#include "hax/ssd.h"
#include "hax/tensor.h"

#endif /* HAX_HAX_H_ */
