"""Convolution, scans and steps against causal-conv1d and mamba-ssm."""

import hax
import peers
import torch
from row import Contestant, Row, bf16, normal, uniform


def conv_row(name, batch, length, channels, width, bars):
    """causal_conv1d forward or backward, SiLU, fp32 taps."""
    backward = name == "backward"

    def make(device):
        x = normal(device, batch, length, channels)
        dy = normal(device, batch, length, channels)
        weight, bias = normal(device, channels, width, dtype=torch.float32), normal(device, channels, dtype=torch.float32)
        common = dict(x=x, weight=weight, bias=bias, activation=hax.SILU)
        if backward:
            ours = hax.Call("causal_conv1d_backward", **common, dy=dy, dx=torch.empty_like(x),
                            dweight=torch.empty_like(weight), dbias=torch.empty_like(bias))  # fmt: skip
        else:
            ours = hax.Call("causal_conv1d_forward", **common, y=torch.empty_like(x))
        contestants = {"hax": Contestant(ours, lambda: {n: ours[n] for n in (("dx", "dweight", "dbias") if backward else ("y",))})}
        for layout, turn in (("B L D", lambda t: t.transpose(1, 2)), ("B D L", lambda t: t.transpose(1, 2).contiguous())):
            if peers.conv is None or device == "cpu":
                continue
            px, pdy = turn(x), turn(dy)
            out = torch.empty_like(px)
            if not backward:
                run = lambda px=px, out=out: peers.conv.causal_conv1d_fwd(px, weight, bias, None, None, out, None, True)
                result = lambda out=out: {"y": out.transpose(1, 2)}
            else:
                sums = torch.zeros_like(weight), torch.zeros_like(bias)

                def run(px=px, pdy=pdy, out=out, sums=sums):
                    sums[0].zero_(), sums[1].zero_()
                    peers.conv.causal_conv1d_bwd(px, weight, bias, pdy, None, None, None, out, sums[0], sums[1], None, True)

                result = lambda out=out, sums=sums: {"dx": out.transpose(1, 2), "dweight": sums[0], "dbias": sums[1]}
            contestants[f"causal-conv1d ({layout})"] = Contestant(run, result)
        if peers.conv_api is not None and device != "cpu":
            leaf = x.detach().transpose(1, 2).requires_grad_(backward)
            leaves = leaf, weight.clone().requires_grad_(backward), bias.clone().requires_grad_(backward)
            run = lambda: peers.conv_api.causal_conv1d_fn(*leaves, activation="silu")
            if backward:
                out, dout = run(), dy.transpose(1, 2)
                run = lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)
            contestants["causal_conv1d_fn"] = Contestant(run)
        return contestants

    return Row(f"causal_conv1d {name} B{batch} L{length} D{channels} W{width}", make, tolerance=1e-2, bars=bars,
               bytes=2 * batch * length * channels * (3 if backward else 2))  # fmt: skip


def scan_inputs(device, batch, length, channels, states):
    tokens = batch, length, channels
    return dict(
        u=normal(device, *tokens), delta=normal(device, *tokens), z=normal(device, *tokens),
        A=-uniform(device, 0.1, 2.0, channels, states), D=normal(device, channels, dtype=torch.float32),
        B=normal(device, batch, length, 1, states), C=normal(device, batch, length, 1, states),
        delta_bias=uniform(device, -4.0, -2.0, channels),
    )  # fmt: skip


def scan_row(name, batch, length, channels, states, bars):
    """selective_scan with D, z, delta_bias and softplus; backward starts from what forward has left, in both."""
    backward = name == "backward"
    gradients = {"du": "u", "ddelta": "delta", "dA": "A", "dB": "B", "dC": "C", "dD": "D", "dz": "z",
                 "ddelta_bias": "delta_bias"}  # fmt: skip

    def make(device):
        inputs = scan_inputs(device, batch, length, channels, states)
        dy = normal(device, batch, length, channels)
        if backward:
            outputs = {d: torch.empty_like(inputs[of]) for d, of in gradients.items()}
            ours = hax.Call("selective_scan_backward", **inputs, dy=dy, delta_softplus=1, **outputs)
        else:
            ours = hax.Call("selective_scan_forward", **inputs, delta_softplus=1, y=torch.empty_like(dy))
        names = list(gradients) if backward else ["y"]
        contestants = {"hax": Contestant(ours, lambda: {n: ours[n] for n in names})}
        if peers.selective_scan is None or device == "cpu":
            return contestants

        def channels_first(t):
            return t.permute(0, 2, 1).contiguous() if t.dim() == 3 else t.permute(0, 2, 3, 1).contiguous()

        p = {n: channels_first(t) if t.dim() > 2 else t for n, t in inputs.items()}
        operands = [p[n] for n in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
        last = {}
        if not backward:
            def run():
                last["y"] = peers.selective_scan.fwd(*operands, True)[2]

            result = lambda: {"y": last["y"].permute(0, 2, 1)}
        else:
            out, x, _ = peers.selective_scan.fwd(*operands, True)
            pdy = channels_first(dy)

            def run():
                last["all"] = peers.selective_scan.bwd(*operands, pdy, x, out, None, True, False)

            def result():
                du, ddelta, dA, dB, dC, dD, dbias, dz = last["all"]
                back = lambda t: t.permute(0, 2, 1) if t.dim() == 3 else t.permute(0, 3, 1, 2)
                return {"du": back(du), "ddelta": back(ddelta), "dA": dA, "dB": back(dB), "dC": back(dC), "dD": dD,
                        "dz": back(dz), "ddelta_bias": dbias}  # fmt: skip

        contestants["mamba-ssm"] = Contestant(run, result)
        return contestants

    tokens = 2 * batch * length * channels
    return Row(f"selective_scan {name} B{batch} L{length} D{channels} N{states}", make, tolerance=2e-2, bars=bars,
               bytes=tokens * (8 if backward else 4))  # fmt: skip


def ssd_row(name, batch, length, heads, width, states, bars, groups=1):
    backward = name == "backward"
    gradients = {"dx": "x", "ddt": "dt", "dA": "A", "dB": "B", "dC": "C", "dD": "D", "ddt_bias": "dt_bias"}

    def make(device):
        inputs = dict(
            x=normal(device, batch, length, heads, width), dt=normal(device, batch, length, heads),
            A=-uniform(device, 1.0, 16.0, heads), B=normal(device, batch, length, groups, states),
            C=normal(device, batch, length, groups, states), D=normal(device, heads, dtype=torch.float32),
            dt_bias=uniform(device, -4.0, -2.0, heads),
        )  # fmt: skip
        dy = normal(device, batch, length, heads, width)
        if backward:
            outputs = {d: torch.empty_like(inputs[of]) for d, of in gradients.items()}
            ours = hax.Call("ssd_backward", **inputs, dy=dy, **outputs)
        else:
            ours = hax.Call("ssd_forward", **inputs, y=torch.empty_like(dy))
        names = list(gradients) if backward else ["y"]
        contestants = {"hax": Contestant(ours, lambda: {n: ours[n] for n in names})}
        if peers.ssd is None or device == "cpu":
            return contestants
        chunk = 256
        operands = [inputs[n] for n in ("x", "dt", "A", "B", "C")]
        options = dict(D=inputs["D"], dt_bias=inputs["dt_bias"], dt_softplus=True)
        last = {}
        if not backward:
            def run():
                last["y"] = peers.ssd._mamba_chunk_scan_combined_fwd(*operands, chunk, **options)[0]

            result = lambda: {"y": last["y"]}
        else:
            y = peers.ssd._mamba_chunk_scan_combined_fwd(*operands, chunk, **options)[0]

            def run():
                last["all"] = peers.ssd._mamba_chunk_scan_combined_bwd(dy, *operands, y, chunk, **options)

            def result():
                dx, ddt, dA, dB, dC, dD, _, ddt_bias = last["all"][:8]
                return {"dx": dx, "ddt": ddt, "dA": dA, "dB": dB, "dC": dC, "dD": dD, "ddt_bias": ddt_bias}

        contestants["mamba-ssm Triton"] = Contestant(run, result)
        return contestants

    x_bytes = 2 * batch * length * heads * width
    return Row(f"ssd {name} B{batch} L{length} H{heads} P{width} N{states}", make, tolerance=2e-2, bars=bars,
               bytes=x_bytes * (3 if backward else 2))  # fmt: skip


def step_row(kind, batch, heads, width, states, bars):
    """One token for every sequence, fp32 state, D, dt_bias, softplus; Mamba's has one head of `width` channels."""
    mamba = kind == "selective_scan"

    def make(device):
        state = normal(device, batch, heads, width, states, dtype=torch.float32)
        x, z = normal(device, batch, heads, width), normal(device, batch, heads, width)
        dt = normal(device, batch, heads, *((width,) if mamba else ()))
        B, C = normal(device, batch, 1, states), normal(device, batch, 1, states)
        A = -uniform(device, 0.1, 2.0, heads, *((width, states) if mamba else ()))
        D = normal(device, heads, *((width,) if mamba else ()), dtype=torch.float32)
        bias = uniform(device, -4.0, -2.0, *D.shape)
        y, ours_state = torch.empty_like(x), state.clone()
        if mamba:
            flat = lambda t: t.reshape(batch, 1, width)
            ours = hax.Call("selective_scan_step", u=flat(x), delta=flat(dt), z=flat(z), A=A[0], D=D[0], B=B[:, None],
                            C=C[:, None], delta_bias=bias[0], state=ours_state[:, 0], y=flat(y), delta_softplus=1)  # fmt: skip
        else:
            ours = hax.Call("ssd_step", x=x[:, None], dt=dt[:, None], z=z[:, None], A=A, D=D, B=B[:, None], C=C[:, None],
                            dt_bias=bias, state=ours_state, y=y[:, None])  # fmt: skip
        contestants = {"hax": Contestant(ours, lambda: {"y": y, "state": ours_state})}
        if peers.state_update is None or device == "cpu":
            return contestants
        spread = (lambda t, *more: t) if mamba else (lambda t, *more: t[(...,) + (None,) * len(more)].expand(*t.shape, *more))
        operands = dict(x=x, dt=spread(dt, width), A=spread(A, width, states), B=B, C=C, D=spread(D, width), z=z,
                        dt_bias=spread(bias, width), dt_softplus=True)  # fmt: skip
        last = {}

        def run():
            last["y"] = peers.state_update.selective_state_update(state, **operands)

        contestants["mamba-ssm Triton"] = Contestant(run, lambda: {"y": last["y"], "state": state})
        return contestants

    shape = f"B{batch} D{width} N{states}" if mamba else f"B{batch} H{heads} P{width} N{states}"
    return Row(f"{kind} step {shape}", make, tolerance=2e-2, bars=bars,
               bytes=8 * batch * heads * width * states)  # fmt: skip


def conv_step_row(batch, channels, width, bars):
    def make(device):
        state = normal(device, batch, width - 1, channels)
        x = normal(device, batch, channels)
        weight, bias = normal(device, channels, width, dtype=torch.float32), normal(device, channels, dtype=torch.float32)
        y, theirs_y = torch.empty_like(x), torch.empty_like(x)
        theirs = state.transpose(1, 2).contiguous()
        ours = hax.Call("causal_conv1d_step", x=x[:, None], weight=weight, bias=bias, state=state, y=y[:, None],
                        activation=hax.SILU)  # fmt: skip
        contestants = {"hax": Contestant(ours, lambda: {"y": y, "state": state})}
        if peers.conv is None or device == "cpu":
            return contestants

        def run():
            peers.conv.causal_conv1d_update(x[..., None], theirs, weight, bias, theirs_y[..., None], True, None, None)

        contestants["causal-conv1d"] = Contestant(run, lambda: {"y": theirs_y, "state": theirs.transpose(1, 2)})
        return contestants

    return Row(f"causal_conv1d step B{batch} D{channels} W{width}", make, tolerance=1e-2, bars=bars,
               bytes=2 * batch * channels * (2 * width))  # fmt: skip


def rows():
    result = []
    for name, big, long, small in (("forward", (0.95, 2.4, 0.85), 3.0, 5.0), ("backward", (2.4, 4.0, 1.9), 4.5, 9.0)):
        result += [scan_row(name, 8, 4096, 4096, 16, dict(ms=big[0], ratio=big[1], goal=big[2])),
                   scan_row(name, 1, 131072, 4096, 16, dict(ratio=long)),
                   scan_row(name, 64, 1057, 128, 16, dict(ratio=small))]  # fmt: skip
    for name, big, long, small in (("forward", (0.55, 2.9, 0.42), 3.5, 20.0), ("backward", (1.6, 3.2, 1.1), 3.5, 25.0)):
        result += [ssd_row(name, 8, 4096, 80, 64, 128, dict(ms=big[0], ratio=big[1], goal=big[2])),
                   ssd_row(name, 1, 131072, 80, 64, 128, dict(ratio=long)),
                   ssd_row(name, 64, 1057, 8, 16, 32, dict(ratio=small))]  # fmt: skip
    for name, big, small in (("forward", (0.251, 0.98, 0.245), (0.029, 2.0, 0.02)),
                             ("backward", (0.442, 1.3, 0.41), (0.053, 8.0, 0.03))):  # fmt: skip
        result += [conv_row(name, 8, 4096, 5376, 4, dict(ms=big[0], ratio=big[1], goal=big[2])),
                   conv_row(name, 64, 1057, 128, 4, dict(ms=small[0], ratio=small[1], goal=small[2]))]  # fmt: skip
    result += [step_row("selective_scan", 64, 1, 5120, 16, dict(ratio=1.3, by="replay", goal=0.014)),
               step_row("ssd", 64, 80, 64, 128, dict(ratio=1.08, by="replay", goal=0.121)),
               conv_step_row(64, 5376, 4, {})]  # fmt: skip
    return result


def long_rows():
    """Time per token when a fixed number of tokens is one sequence instead of many."""
    result = []
    for name in ("forward", "backward"):
        for make, shape in ((scan_row, (256, 16)), (ssd_row, (8, 64, 128))):
            short = make(name, 256, 4096, *shape, {})
            short.tokens = 1
            long = make(name, 1, 1048576, *shape, dict(per_token=1.1, of=short.name))
            long.tokens = 1
            result += [short, long]
    return result
