"""The HAX layer's attention as dense PyTorch operations: masks of L x L, as the official code has them."""

import torch


def lsh_codes(x, R):
    """x (B, L, N), centred and scaled over the sequence; (B, L) integers of sign bits."""
    centred = x.float() - x.float().mean(1, keepdim=True)
    scaled = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    bits = (scaled @ R > 0).long()
    return (bits << torch.arange(R.shape[1], device=x.device)).sum(-1)


def causal(length, device):
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def lsh_mask(code_q, code_k, budget):
    """The latest `budget` keys of a query's bucket."""
    same = (code_q[:, :, None] == code_k[:, None, :]) & causal(code_q.shape[1], code_q.device)
    later = same.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1)
    return same & (later <= budget)


def top_so_far(score, budget):
    """(B, L, budget) indices of the largest scores up to each position."""
    table = score[:, None, :].expand(-1, score.shape[1], -1)
    return table.masked_fill(~causal(score.shape[1], score.device), float("-inf")).topk(budget, dim=-1).indices


def selection_mask(score, budget):
    chosen = torch.zeros(*score.shape, score.shape[1], dtype=torch.bool, device=score.device)
    return chosen.scatter_(-1, top_so_far(score, budget), True) & causal(score.shape[1], score.device)


def key_scores(q, k, weights):
    """q (B, L, N), k scaled; normalised over the sequence."""
    W1, b1, W2, b2, W3, b3 = weights
    running = q.float().cumsum(1)
    running = running / running.norm(dim=1, keepdim=True).clamp_min(1e-12)
    x = torch.cat([k, running.to(k.dtype)], -1)
    x = torch.relu(torch.nn.functional.linear(x, W1, b1.to(k.dtype)))
    x = torch.relu(torch.nn.functional.linear(x, W2, b2.to(k.dtype)))
    return torch.nn.functional.linear(x, W3, b3.to(k.dtype)).squeeze(-1).float()


def attend(q, k, v, mask, scale):
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


def hax_layer(q, k, v, R, weights, budget, scale):
    with torch.no_grad():
        mask = lsh_mask(lsh_codes(q, R), lsh_codes(k, R), budget)
        mask |= selection_mask(key_scores(q, k * scale, weights), budget)
    return attend(q, k, v, mask, scale)
