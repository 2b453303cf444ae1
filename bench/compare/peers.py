"""The libraries hax is compared with. Those that can't be imported have a reason instead."""

import importlib

absent = {}


def _load(label, module):
    try:
        return importlib.import_module(module)
    except Exception as error:  # a peer built for another torch fails in many ways
        absent[label] = f"{type(error).__name__}: {error}".splitlines()[0]
        return None


selective_scan = _load("mamba-ssm selective_scan_cuda", "selective_scan_cuda")
ssd = _load("mamba-ssm Triton ssd", "mamba_ssm.ops.triton.ssd_combined")
state_update = _load("mamba-ssm Triton selective_state_update", "mamba_ssm.ops.triton.selective_state_update")
conv = _load("causal-conv1d", "causal_conv1d_cuda")
conv_api = _load("causal-conv1d, Python interface", "causal_conv1d.causal_conv1d_interface")
flex = _load("FlexAttention", "torch.nn.attention.flex_attention")
