# SPDX-License-Identifier: Apache-2.0
"""Weights of MONAI Generative (0.2.x) for the networks that MONAI's core took over.

Two things changed on the way. Names: attention blocks moved their layers into `attn`, upsampling its
convolution from `conv` to `postconv`. Meaning: the old self-attention blocks own a layer `proj_attn` that
their forward pass never used, and the core's `out_proj` in its place is used; so it must be absent, or be the
identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldae.errors import InputError
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.pipeline.convert_files import plain, renamed

AUTOENCODER_ANCHOR = "quant_conv_log_sigma.conv.weight"
DIFFUSION_UNET_ANCHOR = "middle_block.resnet_1.conv1.conv.weight"
DEAD_LAYER = re.compile(r"\.proj_attn\.(weight|bias)$")
LEVEL_ENDS = "d"
PLAIN_ATTENTION = re.compile(r"(?P<block>.+)\.attn\.(?P<layer>to_[qkv])\.(?P<leaf>weight|bias)")
IDENTITY = re.compile(r"(?P<block>.+)\.attn\.out_proj\.(?P<leaf>weight|bias)")


def infer_autoencoder_config(tensors: Mapping[str, Tensor], *, groups: int = 32) -> AutoencoderConfig:
    """The autoencoder's size from its weights; only the number of groups does not show in them.

    Raises:
        InputError: Levels differ in their number of residual blocks, or the channels do not fit the groups.
    """
    kinds = _encoder_blocks(tensors)
    body = kinds[1:-2]
    nonlocal_attention = "a" in body and body.endswith("r")
    levels = (body[:-3] if nonlocal_attention else body).split(LEVEL_ENDS)
    counts = {level.count("r") for level in levels}
    attention = tuple(index for index, level in enumerate(levels) if "a" in level)
    if len(counts) != 1:
        raise InputError(
            f"Every level of the autoencoder must have the same number of residual blocks, got "
            f"{[level.count('r') for level in levels]}. Such a network cannot be converted."
        )
    channels = tuple(_level_widths(tensors, kinds, levels=len(levels)))
    uneven = [width for width in channels if width % groups]
    if uneven:
        raise InputError(
            f"Channels must be multiples of the {groups} groups of the normalisations, got {list(channels)}. "
            "Say how many groups the autoencoder was trained with."
        )
    return AutoencoderConfig(
        channels=channels,
        latent_channels=int(tensors[AUTOENCODER_ANCHOR].shape[0]),
        res_blocks=counts.pop(),
        groups=groups,
        attention_levels=attention,
        nonlocal_attention=nonlocal_attention,
    )


def _encoder_blocks(tensors: Mapping[str, Tensor]) -> str:
    """A letter a block: r(esidual), a(ttention), d(own), c(onvolution), n(orm)."""
    found: dict[int, set[str]] = {}
    for name in tensors:
        if match := re.match(r"encoder\.blocks\.(\d+)\.(\w+)(?:\.(\w+))?", name):
            found.setdefault(int(match[1]), set()).update(part for part in match.groups()[1:] if part)
    letters = ((("conv1"), "r"), ("to_q", "a"), ("attn", "a"))
    kinds = ""
    for index in sorted(found):
        parts = found[index]
        named = next((letter for part, letter in letters if part in parts), None)
        is_down = f"encoder.blocks.{index}.conv.conv.weight" in tensors
        kinds += named or ("d" if is_down else "c" if "conv" in parts else "n")
    if not re.fullmatch(r"c[rad]+nc", kinds):
        raise InputError(
            "The autoencoder's encoder must be a convolution, levels of residual blocks, a normalisation "
            "and a "
            f"convolution, got the blocks {kinds or 'none'}. It is not an AutoencoderKL of MONAI."
        )
    return kinds


def _level_widths(tensors: Mapping[str, Tensor], kinds: str, *, levels: int) -> list[int]:
    starts = [1, *(index + 1 for index, kind in enumerate(kinds) if kind == LEVEL_ENDS)][:levels]
    return [int(tensors[f"encoder.blocks.{start}.conv1.conv.weight"].shape[0]) for start in starts]


def convert_autoencoder(tensors: Mapping[str, Tensor], *, groups: int = 32) -> Autoencoder:
    """An old AutoencoderKL as this package's autoencoder, in eval mode.

    Args:
        tensors: State dict of MONAI Generative's AutoencoderKL (or the core's, without `include_fc`).
        groups: Groups of its normalisations, `norm_num_groups` there.

    Raises:
        InputError: The architecture cannot be told from the keys.
        CheckpointError: Keys are missing or left over, or shapes differ; all of them are listed.
    """
    autoencoder = Autoencoder(infer_autoencoder_config(tensors, groups=groups))
    autoencoder.net.load_state_dict(convert_state(tensors, like=autoencoder.net, what="autoencoder"))
    return autoencoder.eval()


def convert_diffusion_unet(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> nn.Module:
    """An old DiffusionModelUNet as the core's, in eval mode.

    Args:
        tensors: State dict of MONAI Generative's DiffusionModelUNet.
        arguments: Constructor arguments of the core's class; `num_channels` of the old one is understood.

    Raises:
        InputError: The arguments are not those of the class.
        CheckpointError: Keys are missing or left over, or shapes differ; all of them are listed.
    """
    # monai takes five seconds to import
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    given = {"channels" if name == "num_channels" else name: value for name, value in arguments.items()}
    # cross-attention used its output layer in the old package too, and then no other attention exists
    given.setdefault("include_fc", bool(given.get("with_conditioning", False)))
    try:
        unet = DiffusionModelUNet(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"Arguments must be those of monai's DiffusionModelUNet: {error}.") from error
    unet.load_state_dict(convert_state(tensors, like=unet, what="diffusion UNet"))
    return unet.eval()


def convert_state(tensors: Mapping[str, Tensor], *, like: nn.Module, what: str) -> dict[str, Tensor]:
    """State dict for a network of MONAI's core from the old package's; the core's own names pass as they are.

    Raises:
        CheckpointError: Keys are missing or left over, or shapes differ; all of them are listed.
    """
    shapes = like.state_dict()
    names = {new: new if new in tensors else _old_name(new) for new in shapes}
    identities = [new for new, old in names.items() if old not in tensors and IDENTITY.fullmatch(new)]
    dead = [old for old in tensors if DEAD_LAYER.search(old)]
    kept = {new: old for new, old in names.items() if new not in identities}
    state = renamed(tensors, kept, shapes=shapes, without=dead, what=what)
    return state | {new: _identity(shapes[new]) for new in identities}


def _old_name(name: str) -> str:
    if match := PLAIN_ATTENTION.fullmatch(name):
        return f"{match['block']}.{match['layer']}.{match['leaf']}"
    if ".transformer_blocks." in name:
        return name.replace(".out_proj.", ".to_out.0.")
    return name.replace(".postconv.", ".conv.")


def _identity(shape: Tensor) -> Tensor:
    return plain(torch.eye(len(shape)) if shape.ndim == 2 else torch.zeros(len(shape)))
