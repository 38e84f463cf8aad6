# SPDX-License-Identifier: Apache-2.0
"""The selective scan of state space models in plain torch, chunk by chunk (Mamba, arXiv 2312.00752)."""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

MOST_STATES = {"cpu": 2**23, "cuda": 2**28}
"""States that the backward pass holds at a time; few on a processor, whose cache likes it so."""


def sequential_scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`selective_scan`, one token after the other: the definition, slow."""
    state = x.new_zeros(*x.shape[:2], a.shape[-1], x.shape[-1])  # [B, K, N, D]
    found = []
    for token in range(x.shape[2]):
        step = delta[:, :, token, None]
        state = torch.exp(step * a.mT) * state + b[:, :, token, :, None] * step * x[:, :, token, None]
        found.append(torch.einsum("bkn,bknd->bkd", c[:, :, token], state))
    return torch.stack(found, 2)


def selective_scan(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, *, chunk: int | None = None
) -> Tensor:
    """h_l = exp(delta_l a) h_{l-1} + delta_l b_l x_l and y_l = c_l h_l, from h_0 = 0 (Mamba, equation 2).

    The sequence is cut in chunks. The same place of all chunks is worked on at a time: once from zero for
    what each chunk hands on, then from what it was handed. Nothing is divided by a decay, so that no length
    overflows. Between the passes only one state a chunk is kept; the backward pass computes the others again.
    Half precision is computed in float32.

    Args:
        x: Sequences [B, K, L, D], K directions of each.
        delta: Step sizes [B, K, L, D], positive.
        a: Rates [K, D, N], negative, of N states a channel.
        b: How the input enters the states [B, K, L, N].
        c: How the states are read [B, K, L, N].
        chunk: Tokens of a chunk; default: what makes the fewest steps, about sqrt(L / 2).

    Returns:
        y [B, K, L, D], at least in float32.
    """
    length = x.shape[2]
    chunk = chunk or max(1, math.ceil(math.sqrt(length / 2)))
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, delta, a, b, c = (value.to(dtype) for value in (x, delta, a, b, c))
    most = MOST_STATES.get(x.device.type, MOST_STATES["cuda"])
    rows = max(1, most // (x[0].numel() * a.shape[-1]))
    parts = zip(*(torch.split(value, rows) for value in (x, delta, b, c)), strict=True)
    with torch.autocast(x.device.type, enabled=False):
        found = [_scan(x, delta, a, b, c, chunk) for x, delta, b, c in parts]
    return torch.cat(found) if len(found) > 1 else found[0]


def _scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int) -> Tensor:
    """Padded to whole chunks: where delta is 0 the state stays."""
    length = x.shape[2]
    padding = (0, 0, 0, -length % chunk)
    x, delta, b, c = (
        rearrange(functional.pad(value, padding), "b k (g p) m -> p b k g 1 m", p=chunk)
        for value in (x, delta, b, c)
    )
    y: Tensor = _ChunkedScan.apply(delta * x, delta, a.mT[:, None].contiguous(), b.mT, c)
    return rearrange(y, "p b k g 1 m -> b k (g p) m")[:, :, :length]


class _ChunkedScan(torch.autograd.Function):
    """Over chunks: inputs, delta [P, B, K, G, 1, D]; a [K, 1, N, D]; b [P, B, K, G, N, 1]; c [..., 1, N]."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        totals = torch.exp(delta.sum(0) * a)
        state = torch.zeros_like(totals)
        if totals.shape[2] > 1:
            for decay, entering, enter in zip(_decays(delta, a), inputs, b, strict=True):
                state.mul_(decay).addcmul_(enter, entering)
        started = _carried(totals, state)
        y = torch.empty_like(inputs)
        state = started.clone()
        for place, decay in enumerate(_decays(delta, a)):
            state.mul_(decay).addcmul_(b[place], inputs[place])
            torch.matmul(c[place], state, out=y[place])
        ctx.save_for_backward(inputs, delta, a, b, c, totals, started)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        inputs, delta, a, b, c, totals, started = ctx.saved_tensors
        grad, last = grads[0].contiguous(), len(inputs) - 1
        decays, states = _recomputed(inputs, delta, a, b, started)
        handed = torch.zeros_like(totals)
        if totals.shape[2] > 1:
            for place in range(last, -1, -1):
                handed.addcmul_(c[place].mT, grad[place]).mul_(decays[place])
        # what the later chunks say of each chunk's last state, and from there towards its first
        state_grad = _carried(totals.flip(2), handed.flip(2)).flip(2)
        input_grad, delta_grad, a_grad = torch.empty_like(inputs), torch.empty_like(delta), 0.0 * totals
        b_grad, c_grad = torch.empty_like(b), torch.empty_like(c)
        for place in range(last, -1, -1):
            state_grad.addcmul_(c[place].mT, grad[place])
            c_grad[place] = (states[place + 1] @ grad[place].mT).mT
            b_grad[place] = state_grad @ inputs[place].mT
            input_grad[place] = b[place].mT @ state_grad
            state_grad.mul_(decays[place])
            exponent_grad = state_grad * states[place]
            a_grad.addcmul_(exponent_grad, delta[place])
            delta_grad[place] = exponent_grad.mul_(a).sum(-2, keepdim=True)
        return input_grad, delta_grad, a_grad.sum((0, 2))[:, None], b_grad, c_grad


def _decays(delta: Tensor, a: Tensor) -> Any:
    """exp(delta a) of each place in turn, in one and the same memory [B, K, G, N, D]."""
    decay = torch.empty(*delta.shape[1:4], *a.shape[2:], dtype=a.dtype, device=a.device)
    for step in delta:
        torch.mul(step, a, out=decay)
        yield decay.exp_()


def _carried(totals: Tensor, ends: Tensor) -> Tensor:
    """The state [B, K, G, N, D] before each chunk, from each one's whole decay and its end from zero."""
    started = torch.zeros_like(ends)
    for chunk in range(1, ends.shape[2]):
        torch.addcmul(
            ends[:, :, chunk - 1],
            totals[:, :, chunk - 1],
            started[:, :, chunk - 1],
            out=started[:, :, chunk],
        )
    return started


def _recomputed(
    inputs: Tensor, delta: Tensor, a: Tensor, b: Tensor, started: Tensor
) -> tuple[Tensor, Tensor]:
    """The decays [P, ...] of all places, and the states [P + 1, B, K, G, N, D] before and after them."""
    decays = torch.exp(delta * a)
    states = started.new_empty(len(inputs) + 1, *started.shape)
    states[0] = started
    for place in range(len(inputs)):
        torch.mul(decays[place], states[place], out=states[place + 1])
        states[place + 1].addcmul_(b[place], inputs[place])
    return decays, states
