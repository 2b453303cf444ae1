"""Hashing, key selection and sparse attention against dense attention, FlexAttention and eager PyTorch."""

import eager
import hax
import peers
import torch
from row import Contestant, Row, normal, uniform

BITS = 8


def int32(device, *shape):
    return torch.empty(*shape, dtype=torch.int32, device=device)


def chain(calls):
    """Several calls as one."""
    return lambda: [call() for call in calls]


def bucket_calls(q, k, R, budget, statistics):
    """Calls that hash q and k (B, L, H, N) and sort the keys; key_order, begin, end and both codes."""
    device, (batch, length, heads, _) = q.device, q.shape
    codes = [torch.empty(batch, heads, length, dtype=torch.int64, device=device) for _ in range(2)]
    ranges = {n: int32(device, batch, heads, length) for n in ("key_order", "begin", "end")}
    calls = [hax.Call("lsh_hash_forward", x=x, R=R, code=code, statistics=statistics) for x, code in zip((q, k), codes)]
    calls.append(hax.Call("lsh_bucket_forward", code_q=codes[0], code_k=codes[1], num_bits=R.shape[1], budget=budget, **ranges))
    return calls, ranges, codes


def hash_row(length, heads, width, bits, bars, statistics=hax.STATISTICS_NONE, note=""):
    def make(device):
        q, k = (normal(device, 1, length, heads, width) for _ in range(2))
        R = normal(device, width, bits, dtype=torch.float32)
        calls, _, codes = bucket_calls(q, k, R, 32, statistics)

        def check():
            """Codes by matrix product; a bit whose projection is nearly 0 may differ."""
            want = (q.float() @ R > 0).long()
            return {"code": ((want << torch.arange(bits, device=device)).sum(-1).permute(0, 2, 1) == codes[0]).float()}

        contestants = {"hax": Contestant(chain(calls), lambda: {"code": torch.ones_like(codes[0], dtype=torch.float32)})}
        if statistics == hax.STATISTICS_NONE:
            contestants["codes by matmul"] = Contestant(None, check)
        return contestants

    return Row(f"lsh hash + bucket L{length} H{heads} d{width} {bits} bits{note}", make, bars=bars, tolerance=2e-2,
               bytes=4 * length * heads * width)  # fmt: skip


def select_row(rows, length, budget, order, bars):
    def make(device):
        score = normal(device, rows, 1, length, dtype=torch.float32)
        if order == "sorted up":
            score = score.sort(-1).values
        elif order == "sorted down":
            score = score.sort(-1, descending=True).values
        elif order == "constant":
            score = torch.zeros_like(score)
        elif order == "sawtooth":
            score = (torch.arange(length, device=device) % 1000).float().expand(rows, 1, length).contiguous()
        eviction = int32(device, rows, 1, length)
        ours = hax.Call("key_select_forward", score=score, eviction=eviction, budget=budget)
        position = torch.arange(length, device=device)

        def ours_mask():
            e = eviction[:, 0, None, :]
            return {"mask": ((position[:, None] >= position) & (position[:, None] < e)).float()}

        small = length <= 4096
        contestants = {"hax": Contestant(ours, ours_mask if small else None)}
        if small:
            contestants["eager cumulative top-k"] = Contestant(
                lambda: eager.top_so_far(score[:, 0], budget),
                lambda: {"mask": eager.selection_mask(score[:, 0], budget).float()},
            )
        return contestants

    return Row(f"key_select {rows} rows L{length} k{budget} {order}", make, bars=bars, tolerance=1e-6, bytes=8 * rows * length)


def backward_of(o, inputs, gradient):
    def run():
        return torch.autograd.grad(o, inputs, gradient, retain_graph=True)

    return run


def attention_calls(q, k, v, pattern, scale, d_o=None):
    """The forward call, or forward (already run) and the backward call."""
    batch, length, heads, _ = q.shape
    o = torch.empty(batch, length, heads, v.shape[-1], dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, length, device=q.device)
    forward = hax.Call("sparse_attention_forward", q=q, k=k, v=v, o=o, lse=lse, pattern=pattern, scale=scale)
    if d_o is None:
        return forward
    forward()
    return hax.Call("sparse_attention_backward", q=q, k=k, v=v, o=o, lse=lse, d_o=d_o, dq=torch.empty_like(q),
                    dk=torch.empty_like(k), dv=torch.empty_like(v), pattern=pattern, scale=scale)  # fmt: skip


def hax_pattern(q, k, budget):
    """LSH and key selection, `budget` keys each; also the mask of chosen rows of a head."""
    device, (batch, length, heads, width) = q.device, q.shape
    R = normal(device, width, BITS, dtype=torch.float32)
    calls, ranges, codes = bucket_calls(q, k, R, budget, hax.STATISTICS_NONE)
    eviction = int32(device, batch, heads, length)
    score = normal(device, batch, heads, length, dtype=torch.float32)
    calls.append(hax.Call("key_select_forward", score=score, eviction=eviction, budget=budget))
    chain(calls)()
    pattern = hax.Arguments("sparse_pattern", patterns=hax.LSH | hax.KEY_SELECTION, eviction=eviction, **ranges)
    keys = torch.arange(length, device=device)

    def mask(head, rows):
        same = (codes[0][0, head, rows, None] == codes[1][0, head]) & (keys <= rows[:, None])
        latest = same & (same.flip(-1).cumsum(-1).flip(-1) <= budget)
        return latest | ((keys <= rows[:, None]) & (rows[:, None] < eviction[0, head]))

    return pattern, mask


def sparse_row(name, length, heads, width, value_width, budget, bars, dense):
    backward = name == "backward"
    scale = width**-0.5

    def make(device):
        q, k = (normal(device, 1, length, heads, width) for _ in range(2))
        v = normal(device, 1, length, heads, value_width)
        d_o = normal(device, 1, length, heads, value_width) if backward else None
        pattern, mask = hax_pattern(q, k, budget)
        ours = attention_calls(q, k, v, pattern, scale, d_o)
        rows = torch.randint(0, length, (32,), device=device)
        sampled = [(h, rows) for h in (0, heads - 1)]

        def rows_of_ours():
            out = ours["dq" if backward else "o"]
            return {"rows": torch.stack([out[0, r, h] for h, r in sampled])}

        def rows_by_mask():
            result = []
            for h, r in sampled:
                s = (q[0, r, h].float() @ k[0, :, h].float().T * scale).masked_fill(~mask(h, r), float("-inf"))
                p = torch.softmax(s, -1).nan_to_num(0.0)
                if backward:
                    dp = d_o[0, r, h].float() @ v[0, :, h].float().T
                    p = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
                result.append(p @ (k if backward else v)[0, :, h].float())
            return {"rows": torch.stack(result)}

        contestants = {"hax": Contestant(ours, rows_of_ours), "rows by masks": Contestant(None, rows_by_mask)}
        if dense and device != "cpu":
            dq, dk, dv = (normal(device, 1, heads, length, value_width).requires_grad_(backward) for _ in range(3))
            attend = lambda: torch.nn.functional.scaled_dot_product_attention(dq, dk, dv, is_causal=True)
            run = backward_of(attend(), (dq, dk, dv), normal(device, *dq.shape)) if backward else attend
            contestants[f"dense SDPA d{value_width}"] = Contestant(run)
        return contestants

    return Row(f"sparse_attention {name} LSH+selection {2 * budget} L{length} H{heads} d{width},{value_width}", make,
               bars=bars, tolerance=2e-2, tokens=length * heads,
               bytes=2 * length * heads * (2 * width + 2 * value_width))  # fmt: skip


_compiled = {}


def flex(q, k, v, block_mask):
    if "flex" not in _compiled:
        _compiled["flex"] = torch.compile(peers.flex.flex_attention, dynamic=False)
    return _compiled["flex"](q, k, v, block_mask=block_mask)


def window_blocks(length, window, device, size=128):
    """FlexAttention's block mask: a block of queries meets its own block of keys and the one before."""
    assert window <= size and length % size == 0
    blocks = length // size
    index = torch.arange(blocks, device=device, dtype=torch.int32)
    keys = torch.zeros(blocks, blocks, device=device, dtype=torch.int32)
    keys[:, 0], keys[:, 1] = (index - 1).clamp_min(0), index
    return peers.flex.BlockMask.from_kv_blocks(
        (index + 1).clamp_max(2)[None, None], keys[None, None], BLOCK_SIZE=size, seq_lengths=(length, length),
        mask_mod=lambda b, h, i, j: (j <= i) & (i - j < window),
    )  # fmt: skip


def window_row(name, length, heads, width, window, bars):
    backward = name == "backward"
    scale = width**-0.5

    def make(device):
        q, k, v = (normal(device, 1, length, heads, width) for _ in range(3))
        d_o = normal(device, *q.shape) if backward else None
        pattern = hax.Arguments("sparse_pattern", patterns=hax.SLIDING_WINDOW, window=window)
        ours = attention_calls(q, k, v, pattern, scale, d_o)
        names = ("dq", "dk", "dv") if backward else ("o",)
        contestants = {"hax": Contestant(ours, lambda: {n: ours[n] for n in names})}
        if peers.flex is None or device == "cpu":
            return contestants
        block_mask = window_blocks(length, window, device)
        pq, pk, pv = (t.transpose(1, 2).contiguous().requires_grad_(backward) for t in (q, k, v))
        last = {}
        if backward:
            grad = backward_of(flex(pq, pk, pv, block_mask), (pq, pk, pv), d_o.transpose(1, 2).contiguous())

            def run():
                last["all"] = grad()

        else:

            def run():
                last["all"] = (flex(pq, pk, pv, block_mask),)

        contestants["FlexAttention"] = Contestant(run, lambda: {n: t.transpose(1, 2) for n, t in zip(names, last["all"])})
        return contestants

    return Row(f"sparse_attention {name} window {window} L{length} H{heads} d{width}", make, bars=bars, tolerance=2e-2,
               tokens=length * heads, bytes=8 * length * heads * width)  # fmt: skip


def layer_row(name, batch, length, width, value_width, budget, bars):
    """One head: hash, bucket, score, select, attend."""
    backward = name == "backward"
    scale = width**-0.5

    def make(device):
        q, k = (normal(device, batch, length, 1, width) for _ in range(2))
        v = normal(device, batch, length, 1, value_width)
        R = normal(device, width, BITS, dtype=torch.float32)
        wide = 2 * width
        weights = [uniform(device, -0.2, 0.2, *s) for s in ((wide, wide), (wide,), (wide, wide), (wide,), (1, wide), (1,))]
        W = dict(zip(("W1", "b1", "W2", "b2", "W3", "b3"), weights))
        ranges = {n: int32(device, batch, 1, length) for n in ("key_order", "begin", "end", "eviction")}
        score, lse = (torch.empty(batch, 1, length, device=device) for _ in range(2))
        o, d_o = torch.empty_like(v), normal(device, *v.shape)
        patterns = hax.LSH | hax.KEY_SELECTION
        one_call = hax.has("layer_attention_forward")
        if one_call:
            forward = hax.Call("layer_attention_forward", q=q, k=k, v=v, R=R, **W, o=o, lse=lse, score=score, **ranges,
                               patterns=patterns, lsh_budget=budget, selection_budget=budget, scale=scale,
                               statistics=hax.STATISTICS_SEQUENCE, normalization=hax.NORM_SEQUENCE)  # fmt: skip
        else:
            eviction = ranges["eviction"]
            calls, inner, _ = bucket_calls(q, k, R, budget, hax.STATISTICS_SEQUENCE)
            ranges = {**inner, "eviction": eviction}
            pattern = hax.Arguments("sparse_pattern", patterns=patterns, **ranges)
            calls += [
                hax.Call("key_score_forward", q=q, k=k, **W, score=score, k_scale=scale, normalization=hax.NORM_SEQUENCE),
                hax.Call("key_select_forward", score=score, eviction=eviction, budget=budget),
                hax.Call("sparse_attention_forward", q=q, k=k, v=v, o=o, lse=lse, pattern=pattern, scale=scale),
            ]
            forward = chain(calls)
        gradients = dict(dq=torch.empty_like(q), dk=torch.empty_like(k), dv=torch.empty_like(v))
        if not backward:
            ours, names = forward, {"o": o}
        else:
            forward()
            common = dict(q=q, k=k, v=v, o=o, lse=lse, d_o=d_o, scale=scale, **gradients)
            if one_call:
                ours = hax.Call("layer_attention_backward", **common, **ranges, patterns=patterns)
            else:
                ours = hax.Call("sparse_attention_backward", **common, pattern=pattern)
            names = gradients
        eq, ek, ev = (t[:, :, 0].detach().clone().requires_grad_(backward) for t in (q, k, v))
        eager_weights = [w.to(q.dtype) if w.dim() > 1 else w for w in weights]
        run = lambda: eager.hax_layer(eq, ek, ev, R, eager_weights, budget, scale)
        if backward:
            run = backward_of(run(), (eq, ek, ev), d_o[:, :, 0])

        def by_mask():
            """Dense attention in fp32 over the keys that hax chose."""
            i = torch.arange(length, device=device)
            order, begin, end, e = (ranges[n][:, 0].long() for n in ("key_order", "begin", "end", "eviction"))
            rank = torch.empty_like(order).scatter_(1, order, i.expand(batch, length))
            mask = (rank[:, None] >= begin[..., None]) & (rank[:, None] < end[..., None])
            mask |= (i[:, None] >= i) & (i[:, None] < e[:, None])
            fq, fk, fv = (t[:, :, 0].float().requires_grad_(backward) for t in (q, k, v))
            out = eager.attend(fq, fk, fv, mask, scale)
            if not backward:
                return {"o": out[:, :, None]}
            return dict(zip(names, (g[:, :, None] for g in torch.autograd.grad(out, (fq, fk, fv), d_o[:, :, 0].float()))))

        return {
            "hax": Contestant(ours, lambda: names),
            "eager PyTorch": Contestant(run),
            "dense over hax's keys": Contestant(None, by_mask),
        }

    return Row(f"HAX layer attention {name} B{batch} L{length} N{width} d_v{value_width}", make, bars=bars, tolerance=2e-2,
               bytes=2 * batch * length * (2 * width + 2 * value_width))  # fmt: skip


def rows():
    result = [hash_row(131072, 8, 64, bits, dict(ms=0.2, goal=0.15)) for bits in (8, 16)]
    result.append(hash_row(131072, 8, 64, 8, {}, hax.STATISTICS_SEQUENCE, " centred"))
    result.append(select_row(64, 1057, 32, "random", dict(ms=0.015, ratio=120.0)))
    result.append(select_row(64, 131072, 64, "random", dict(ms=0.06, goal=0.035)))
    for order in ("sorted up", "sorted down", "constant", "sawtooth"):
        result.append(select_row(64, 131072, 64, order, dict(ms=0.5, goal=0.4)))
    for name, ms, ratio, goal in (("forward", 2.0, 60.0, 1.4), ("backward", 6.0, 50.0, 4.0)):
        result.append(sparse_row(name, 131072, 16, 64, 128, 32, dict(ms=ms, ratio=ratio, goal=goal, token_bytes=40), True))
        at = sparse_row(name, 131072, 8, 64, 128, 32, {}, False)
        result += [at, sparse_row(name, 1048576, 8, 64, 128, 32, dict(per_token=1.3, of=at.name, gib=8.0), False)]
        for length in (8192, 131072):
            result.append(window_row(name, length, 16, 128, 64, dict(ratio=1.5)))
    for name, ms, ratio, goal in (("forward", 0.1, 60.0, 0.06), ("backward", 0.25, 6.0, 0.15)):
        result.append(layer_row(name, 64, 1057, 32, 128, 32, dict(ms=ms, ratio=ratio, goal=goal)))
    return result
