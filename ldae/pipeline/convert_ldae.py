# SPDX-License-Identifier: Apache-2.0
"""The published LDAE layout, UNet and shift UNet, under the names of this package's networks.

The layout is that of PDAE (arXiv 2212.12990): input, middle and output blocks in flat lists, and beside the
middle and output blocks a second set, whose names begin with `shift_`, for the gradient estimator. Its down-
and up-sampling leaves the first of the three axes as it is, and the code goes through one linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ldae.errors import InputError
from ldae.nets.blocks import ModuleT
from ldae.nets.estimator import EstimatorConfig, GradientEstimator
from ldae.nets.unet import UNet, UNetConfig
from ldae.pipeline.convert_files import renamed

UNET_ANCHOR = "input_blocks.0.0.weight"
SHIFT_START = ("label_emb.", "shift_")
PUBLISHED_AXES = (1, 2)
RESIDUAL = {
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "time": "emb_layers.1",
    "code": "emb_z_layers.1",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "skip": "skip_connection",
}
ATTENTION = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}
TRUNK = {
    "trunk.time.layers.0": "time_embed.0",
    "trunk.time.layers.2": "time_embed.2",
    "trunk.input": "input_blocks.0.0",
}


@dataclass(frozen=True)
class Heads:
    """How the old attention blocks divide their channels, which does not show in the weights.

    Attributes:
        number: Heads of every block, where `channels` is -1.
        channels: Channels of a head, -1 where the number of heads is fixed.
        order: "heads" where each head's queries, keys and values lie together (the published order),
            "kinds" where all queries come first.
    """

    number: int = 1
    channels: int = -1
    order: Literal["heads", "kinds"] = "heads"

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Heads:
        """From the arguments of the published UNet."""
        return cls(
            number=int(arguments.get("num_heads", 1)),
            channels=int(arguments.get("head_channel", -1)),
            order="kinds" if arguments.get("use_new_attention_order", False) else "heads",
        )

    def head_channels(self, widths: set[int]) -> int:
        """Channels of a head in this package's sense.

        Raises:
            InputError: A fixed number of heads above one over blocks of several widths.
        """
        if self.channels > 0:
            return self.channels
        if self.number == 1:
            return max(widths)
        if len(widths) > 1:
            raise InputError(
                f"Attention blocks of several widths {sorted(widths)} must have one head or a fixed number "
                "of "
                f"channels a head, got {self.number} heads. Such a network cannot be represented."
            )
        return widths.pop() // self.number


def infer_unet_config(tensors: Mapping[str, Tensor], *, heads: Heads) -> UNetConfig:
    """The UNet's size from its weights.

    Raises:
        InputError: It is no 3D UNet of the published layout, or one that this package has no form for.
    """
    first, output = tensors[UNET_ANCHOR], tensors.get("out.2.weight")
    time = tensors.get("time_embed.0.weight")
    if output is None or time is None or first.ndim != 5:
        raise InputError(
            "The UNet must have time_embed, 3D input_blocks and out, as published, got "
            "input_blocks.0.0.weight "
            f"of shape {tuple(first.shape)}{'' if output is not None else ' and no out.2.weight'}. Check "
            "the kind."
        )
    base, latent_channels = int(time.shape[1]), int(first.shape[1])
    _check_ends(base, first, output, time)
    levels, blocks = _levels_and_blocks(tensors)
    starts = [1 + level * (blocks + 1) for level in range(levels)]
    widths = [_width(tensors, f"input_blocks.{start}.0") for start in starts]
    attention = tuple(
        level for level, start in enumerate(starts) if f"input_blocks.{start}.1.qkv.weight" in tensors
    )
    uneven = [width for width in widths if width % base]
    if uneven:
        raise InputError(f"Widths of the UNet must be multiples of its base {base}, got {widths}.")
    return UNetConfig(
        in_channels=latent_channels,
        base=base,
        multipliers=tuple(width // base for width in widths),
        blocks=blocks,
        attention_levels=attention,
        head_channels=heads.head_channels({widths[-1], *(widths[level] for level in attention)}),
        downsample_axes=PUBLISHED_AXES,
    )


def _check_ends(base: int, first: Tensor, output: Tensor, time: Tensor) -> None:
    if time.shape[0] != 4 * base or first.shape[0] != base:
        raise InputError(
            f"The UNet's time embedding must be 4 and its first level 1 times its base of {base} channels, "
            "got "
            f"{time.shape[0]} and {first.shape[0]}. Such a network cannot be represented."
        )
    if output.shape[0] != first.shape[1]:
        raise InputError(
            f"The UNet must give as many channels as it takes, {first.shape[1]}, got {output.shape[0]}: "
            "one with "
            "a learned variance cannot be represented."
        )


def _levels_and_blocks(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Every level but the finest ends with an up-sampling block beside its last one."""
    count = 1 + max((_index(name, 1) for name in tensors if name.startswith("output_blocks.")), default=-1)
    rising = {
        _index(name, 1)
        for name in tensors
        if name.startswith("output_blocks.") and name.endswith(".in_layers.2.weight") and _index(name, 2) > 0
    }
    levels = 1 + len(rising)
    if count < levels or count % levels:
        raise InputError(
            f"The UNet's output blocks must divide evenly among its {levels} levels, got {count}. It is "
            "not of "
            "the published layout."
        )
    return levels, count // levels - 1


def _index(name: str, position: int) -> int:
    return int(name.split(".")[position])


def _width(tensors: Mapping[str, Tensor], block: str) -> int:
    name = f"{block}.in_layers.2.weight"
    if name not in tensors:
        raise InputError(
            f"The UNet must have a residual block {block}, got no {name}. It is not of the layout."
        )
    return int(tensors[name].shape[0])


def convert_unet(tensors: Mapping[str, Tensor], *, heads: Heads) -> UNet:
    """A published UNet, or the frozen half of a shift UNet, as this package's, in eval mode.

    Raises:
        InputError: The architecture has no form here.
        CheckpointError: Keys are missing or left over, or shapes differ; all of them are listed.
    """
    own = {name: value for name, value in tensors.items() if not name.startswith(SHIFT_START)}
    config = infer_unet_config(own, heads=heads)
    with torch.device("meta"):
        shapes = UNet(config).state_dict()
    stages = _trunk_stages(config) | _up_stages(config, prefix="up.", old="")
    state = renamed(own, _names(shapes, stages | TRUNK), shapes=shapes, what="UNet")
    return _loaded(UNet(config), _reordered(state, heads, config=config)).eval()


def convert_estimator(
    tensors: Mapping[str, Tensor], *, heads: Heads, unet: UNetConfig, latent_shape: tuple[int, int, int]
) -> GradientEstimator:
    """The trained half of a published shift UNet as this package's gradient estimator, in eval mode.

    Raises:
        CheckpointError: Keys are missing or left over, or shapes differ; all of them are listed.
    """
    own = {name: value for name, value in tensors.items() if name.startswith(SHIFT_START)}
    code = own.get("label_emb.weight")
    estimator = GradientEstimator(
        EstimatorConfig(entry="modulation", code_layers=1),
        unet=unet,
        code_size=int(code.shape[-1]) if code is not None else 1,
        latent_shape=latent_shape,
    )
    shapes = estimator.state_dict()
    stages = _up_stages(unet, prefix="up.", old="shift_") | {"code.0": "label_emb"}
    state = renamed(own, _names(shapes, stages), shapes=shapes, what="shift UNet")
    return _loaded(estimator, _reordered(state, heads, config=unet)).eval()


def _loaded(module: ModuleT, state: Mapping[str, Tensor]) -> ModuleT:
    module.load_state_dict(state)
    return module


def _stage(new: str, old: str, *, residual: int, attention: int) -> dict[str, str]:
    names = {f"{new}.block.{ours}": f"{old}.{residual}.{theirs}" for ours, theirs in RESIDUAL.items()}
    return names | {
        f"{new}.attention.{ours}": f"{old}.{attention}.{theirs}" for ours, theirs in ATTENTION.items()
    }


def _trunk_stages(config: UNetConfig) -> dict[str, str]:
    names: dict[str, str] = {}
    for stage in range(len(config.multipliers) * (config.blocks + 1) - 1):
        names |= _stage(f"trunk.stages.{stage}", f"input_blocks.{stage + 1}", residual=0, attention=1)
    return names


def _up_stages(config: UNetConfig, *, prefix: str, old: str) -> dict[str, str]:
    """An up-sampling block opens its level here, and is the last member of the level before there."""
    names = {f"{prefix}norm": f"{old}out.0", f"{prefix}output": f"{old}out.2"}
    names |= _stage(f"{prefix}middle_in", f"{old}middle_block", residual=0, attention=1)
    names |= _stage(f"{prefix}middle_out", f"{old}middle_block", residual=2, attention=1)
    deepest = len(config.multipliers) - 1
    for index, level in enumerate(reversed(range(deepest + 1))):
        first = index * (config.blocks + 1)
        stages = [(f"{old}output_blocks.{first + block}", 0) for block in range(config.blocks + 1)]
        if index > 0:
            last = 1 + (level + 1 in config.attention_levels)
            stages.insert(0, (f"{old}output_blocks.{first - 1}", last))
        for stage, (block, residual) in enumerate(stages):
            names |= _stage(f"{prefix}levels.{index}.{stage}", block, residual=residual, attention=1)
    return names


def _names(shapes: Mapping[str, Tensor], layers: Mapping[str, str]) -> dict[str, str]:
    split = {name: name.rpartition(".") for name in shapes}
    return {name: f"{layers[layer]}.{leaf}" for name, (layer, _, leaf) in split.items()}


def _reordered(state: Mapping[str, Tensor], heads: Heads, *, config: UNetConfig) -> dict[str, Tensor]:
    """Rows of the joint projections from head by head to queries, keys, values."""
    if heads.order == "kinds":
        return dict(state)
    return {
        name: _by_kind(value, head=config.head_channels) if ".qkv." in name else value
        for name, value in state.items()
    }


def _by_kind(rows: Tensor, *, head: int) -> Tensor:
    count = max(1, len(rows) // 3 // head)
    by_head = rows.reshape(count, 3, -1, *rows.shape[1:])
    return by_head.transpose(0, 1).reshape(rows.shape)
