# SPDX-License-Identifier: Apache-2.0
"""The trained networks as functions on tensors, computed in batches of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ldae.diffusion import samplers
from ldae.diffusion.interpolation import lerp
from ldae.diffusion.model import GuidedDiffusion
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.errors import InputError
from ldae.nets.autoencoder import Autoencoder
from ldae.stages.components import Denoiser, Representation

# Of scans at a time: the autoencoder's first level takes 64 times their memory, so one of published size.
VOXELS_AT_ONCE = 4_000_000
MOST_AT_ONCE = 16


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        InputError: The name is no device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device must be auto, cpu, or one that this machine has, got {name!r}: {reason}."
        ) from error
    return device


def volume_batch(size: Sequence[int]) -> int:
    """How many scans of a size, in voxels, are worked on at a time unless one says otherwise."""
    return max(1, min(MOST_AT_ONCE, VOXELS_AT_ONCE // int(np.prod(size))))


def fresh_noise(shape: Sequence[int], *, seeds: Sequence[tuple[int, int]]) -> Tensor:
    """Standard normal noise, one scan a seed.

    What a scan gets depends on its own seed alone, not on the others, the batch or the device.

    Args:
        shape: Of one scan's noise.
        seeds: A pair (seed, number of the scan) each, both 0 or above.

    Returns:
        float32 [N, *shape].
    """
    drawn = []
    for pair in seeds:
        state = int(np.random.SeedSequence(pair).generate_state(1, np.uint64)[0])
        drawn.append(torch.randn(tuple(shape), generator=torch.Generator().manual_seed(state)))
    return torch.stack(drawn)


class Networks(nn.Module):
    """Autoencoder, semantic encoder and guided diffusion, always in eval mode and without gradients.

    Every method takes float32 tensors of any number of scans on any device, works through them in batches and
    returns float32 on the CPU. Weights and the state of the samplers stay float32 under any `dtype`.

    Args:
        autoencoder: Stage 1's network.
        denoiser: Stage 2's result.
        representation: Stage 3's result.
        dtype: Type in which layers compute.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        *,
        representation: Representation,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.normaliser = denoiser.normaliser
        self.encoder = representation.encoder
        self.diffusion = GuidedDiffusion(denoiser.model, representation.estimator)
        self.dtype = dtype
        self.volume_batch = volume_batch(representation.encoder.size)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Networks:
        """Stays in eval mode, whatever is asked."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.diffusion.schedule.alpha_bar.device

    def describe(self, volumes: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Scans [B, 1, X, Y, Z] in [0, 1] to semantic codes [B, D]."""
        return self._batched(self.encoder, [volumes], batch_size=batch_size or self.volume_batch)

    def describe_depths(self, volumes: Tensor, *, batch_size: int | None = None) -> list[Tensor]:
        """Scans [B, 1, X, Y, Z] in [0, 1] to semantic codes [B, D] and then the encoder's depths [B, w_k]."""
        widths: list[int] = []

        def step(chunk: Tensor) -> Tensor:
            code, depths = self.encoder.describe_depths(chunk)
            widths[:] = [code.shape[1], *(depth.shape[1] for depth in depths)]
            return torch.cat([code, *depths], 1)

        joined = self._batched(step, [volumes], batch_size=batch_size or self.volume_batch)
        return list(torch.split(joined, widths, dim=1))

    def compress(self, volumes: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Scans [B, 1, X, Y, Z] in [0, 1] to normalised latents z_0 [B, C, h, w, d]."""

        def step(chunk: Tensor) -> Tensor:
            latent: Tensor = self.normaliser(self.autoencoder.encode(chunk)[0].float())
            return latent

        return self._batched(step, [volumes], batch_size=batch_size or self.volume_batch)

    def expand(self, latents: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Normalised latents z_0 [B, C, h, w, d] to scans [B, 1, X, Y, Z], clipped to [0, 1]."""

        def step(chunk: Tensor) -> Tensor:
            return self.autoencoder.decode(self.normaliser.inverse(chunk)).float().clamp(0, 1)

        return self._batched(step, [latents], batch_size=batch_size or self.volume_batch)

    def to_noise(
        self,
        latents: Tensor,
        semantic: Tensor | None,
        *,
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        clip_sample: bool = False,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Latents z_0 [B, C, h, w, d] to stochastic codes z_T, and what "exact" needs besides.

        Args:
            latents: Normalised latents.
            semantic: Codes [B, D], or None for the denoiser alone.
            steps: Network calls.
            solver: How the steps are taken.
            clip_sample: Clip x0 to [-1, 1] as the published sampler does.
            batch_size: Scans at a time; None takes a number that fits.

        Returns:
            z_T, and the last step for "exact" or None; each of the shape of `latents`.
        """

        def step(chunk: Tensor, *code: Tensor) -> Tensor:
            y = code[0] if code else None
            states = samplers.encode(
                self.diffusion.eps_model(y),
                chunk,
                schedule=self.diffusion.schedule,
                steps=steps,
                solver=solver,
                gaussian=self.diffusion.gaussian(y),
                clip_sample=clip_sample,
            )
            return torch.stack([state for state in states if state is not None], dim=1)

        inputs = [latents] if semantic is None else [latents, semantic]
        states = self._batched(step, inputs, batch_size=batch_size or MOST_AT_ONCE)
        return states[:, 0], states[:, 1] if states.shape[1] == 2 else None

    def from_noise(
        self,
        noise: Tensor,
        semantic: Tensor | None,
        *,
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        previous: Tensor | None = None,
        stop_fraction: float = 0.0,
        clip_sample: bool = False,
        batch_size: int | None = None,
    ) -> Tensor:
        """Stochastic codes z_T [B, C, h, w, d] to latents z_0.

        Args:
            noise: Stochastic codes.
            semantic: Codes [B, D], or None for the denoiser alone.
            steps: Network calls.
            solver: How the steps are taken.
            previous: What `to_noise` gave beside z_T for "exact"; None for noise that was drawn.
            stop_fraction: Share of the noise levels, the lowest, at which the code is switched off, 0..1.
            clip_sample: Clip x0 to [-1, 1] as the published sampler does.
            batch_size: Scans at a time; None takes a number that fits.

        Raises:
            InputError: `stop_fraction` lies outside of 0..1, or steps or solver are wrong.
        """
        if not 0 <= stop_fraction <= 1:
            raise InputError(f"stop_fraction must lie within 0..1, got {stop_fraction}.")
        inputs = {"noise": noise, "y": semantic, "previous": previous}
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None}

        def step(*chunks: Tensor) -> Tensor:
            chunk = dict(zip(given, chunks, strict=True))
            y = chunk.get("y")
            return samplers.decode(
                self.diffusion.eps_model(y, stop_fraction=stop_fraction),
                chunk["noise"],
                schedule=self.diffusion.schedule,
                steps=steps,
                solver=solver,
                gaussian=self.diffusion.gaussian(y),
                previous=chunk.get("previous"),
                clip_sample=clip_sample,
            )

        return self._batched(step, list(given.values()), batch_size=batch_size or MOST_AT_ONCE)

    def from_noise_between(
        self,
        noise: Tensor,
        semantic: tuple[Tensor, Tensor],
        *,
        fraction: float,
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        batch_size: int | None = None,
    ) -> Tensor:
        """Stochastic codes [B, C, h, w, d] to latents, at each step shifted by a mix of two gradients.

        Args:
            noise: Stochastic codes, one for both gradients.
            semantic: Two batches of codes [B, D].
            fraction: Weight of the second batch's gradient.
            steps: Network calls.
            solver: How the steps are taken; "exact" starts as from drawn noise.
            batch_size: Scans at a time; None takes a number that fits.
        """

        def step(chunk: Tensor, first: Tensor, second: Tensor) -> Tensor:
            return samplers.decode(
                self.diffusion.trajectory_model(first, second, fraction=fraction),
                chunk,
                schedule=self.diffusion.schedule,
                steps=steps,
                solver=solver,
                gaussian=self.diffusion.gaussian(lerp(first, second, fraction=fraction)),
            )

        return self._batched(step, [noise, *semantic], batch_size=batch_size or MOST_AT_ONCE)

    def _batched(
        self, compute: Callable[..., Tensor], inputs: Sequence[Tensor], *, batch_size: int
    ) -> Tensor:
        parts = []
        reduced = self.dtype != torch.float32
        for chunks in zip(*(torch.split(tensor, batch_size) for tensor in inputs), strict=True):
            moved = [chunk.to(self.device, torch.float32) for chunk in chunks]
            with torch.no_grad(), torch.autocast(self.device.type, dtype=self.dtype, enabled=reduced):
                parts.append(compute(*moved).float().cpu())
        return torch.cat(parts)
