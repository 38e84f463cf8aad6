# SPDX-License-Identifier: Apache-2.0
"""How much faster diffusion is on latents than on voxels.

    python benchmarks/voxel_space.py

The demo's denoising UNet on latents of 3x8x10x8 and, with one channel in and out, on the 32x40x32 voxels
that they stand for: an optimiser step a scan, and a call of the network a scan. What the autoencoder takes
to encode and decode is added to a walk of 20 calls in latents, and nothing to one in voxels. To run all
stages on voxels, train with `--config aekl.yaml --config voxels.yaml`. Floor: operations of convolutions and
matrix products over the rate of a large matrix product.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from training_step import LATENT, SIZE, arguments
from turns import Result, in_turns, matrix_rate, operations, ratio, tell

from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.nets.blocks import to_channels_last
from ldae.nets.unet import UNet, UNetConfig

CALLS = 20


class Space:
    """A denoising UNet over one scan in one space."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        config = UNetConfig(**{**arguments("ldae_pretrain")["unet"], "in_channels": shape[0]})
        self.net = UNet(config)
        nn.init.normal_(self.net.up.output.weight, std=0.01)
        to_channels_last(self.net)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-4)
        self.z, self.t = torch.randn(1, *shape), torch.tensor([500])

    def train(self) -> None:
        """An optimiser step."""
        self.net(self.z, self.t).square().mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def call(self) -> None:
        """A call of the network."""
        with torch.no_grad():
            self.net(self.z, self.t)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    autoencoder = Autoencoder(AutoencoderConfig(**arguments("aekl")["autoencoder"])).eval()
    to_channels_last(autoencoder)
    x = torch.rand(1, 1, *SIZE)

    @torch.no_grad()
    def both_ways() -> None:
        autoencoder.decode(autoencoder.encode(x)[0])

    latent, voxel = Space(LATENT), Space((1, *SIZE))
    works = {
        "latent_step": latent.train,
        "voxel_step": voxel.train,
        "latent_call": latent.call,
        "voxel_call": voxel.call,
        "autoencoder": both_ways,
    }
    taken, rate = in_turns(works, repeats=args.repeats), matrix_rate()
    walks = [
        CALLS * call + rest for call, rest in zip(taken["latent_call"], taken["autoencoder"], strict=True)
    ]
    result: Result = {
        "milliseconds": {name: round(1e3 * min(times), 1) for name, times in taken.items()},
        "floor_milliseconds": {name: round(1e3 * operations(work) / rate, 1) for name, work in works.items()},
        "matrix_gflops": round(rate / 1e9, 1),
        "voxel_over_latent_step": ratio(taken["voxel_step"], taken["latent_step"]),
        "voxel_over_latent_walk": ratio([CALLS * call for call in taken["voxel_call"]], walks),
    }
    tell(result, out=args.out)


if __name__ == "__main__":
    main()
