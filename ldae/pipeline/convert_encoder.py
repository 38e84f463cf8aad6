# SPDX-License-Identifier: Apache-2.0
"""The published LDAE semantic encoder under the names of this package's.

Two linear layers in a row compute what one can: the published encoder projects query, key and value before
its multi-head attention projects them again, and both become the attention's own input projection here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ldae.errors import CheckpointError, InputError
from ldae.nets.backbones import BackboneConfig
from ldae.nets.semantic import PLANES, PlaneName, SemanticConfig, SemanticEncoder
from ldae.pipeline.convert_files import renamed

ENCODER_ANCHOR = "layer_norm_after_attention.weight"
POSITIONS = "positional_encoding.pe"
TIMM = "ldae.nets.backbones.TimmBackbone"
ALIAS = "slice_distributed.module."
HEADS = 8
POSITION_TOLERANCE = 1e-4
PROJECTIONS = ("query", "key", "value")
# torchvision's ConvNeXt, by blocks a stage and channels of the first
CONVNEXT = {
    (3, 3, 9, 3, 96): "convnext_tiny",
    (3, 3, 27, 3, 96): "convnext_small",
    (3, 3, 27, 3, 128): "convnext_base",
    (3, 3, 27, 3, 192): "convnext_large",
}
CONVNEXT_BLOCK = {"conv_dw": "block.0", "norm": "block.2", "mlp.fc1": "block.3", "mlp.fc2": "block.5"}


def convert_encoder(
    tensors: Mapping[str, Tensor],
    *,
    size: tuple[int, int, int],
    plane: PlaneName = "axial",
    heads: int = HEADS,
) -> SemanticEncoder:
    """A published semantic encoder as this package's, in eval mode.

    Args:
        tensors: Its state dict.
        size: Sides (X, Y, Z) of the scans, in voxels.
        plane: Along which plane it was trained to cut them.
        heads: Attention heads.

    Raises:
        InputError: Backbone, number of heads or of slices have no form here.
        CheckpointError: Keys are missing or left over, or shapes differ; all of them are listed.
    """
    if heads != HEADS:
        raise InputError(
            f"The encoder must have {HEADS} attention heads, got {heads}. It cannot be represented."
        )
    own = _without_aliases(tensors)
    positions = own.pop(POSITIONS, None)
    name, layers = _backbone_names(own)
    encoder = SemanticEncoder(
        SemanticConfig(
            code_size=int(own[ENCODER_ANCHOR].shape[0]),
            plane=plane,
            pooling="attention",
            normalisation="layernorm",
            backbone=BackboneConfig(TIMM, {"name": name, "pretrained": False}),
        ),
        size=size,
    )
    _check_positions(positions, encoder)
    shapes = encoder.state_dict()
    flat = {old: value.flatten() if old.endswith(".layer_scale") else value for old, value in own.items()}
    names = _names(shapes, layers, score=_score_name(own))
    projected = [f"{kind}_projection.{leaf}" for kind in PROJECTIONS for leaf in ("weight", "bias")]
    state = renamed(
        flat, names | {key: key for key in projected}, shapes=_shapes(shapes, projected), what="encoder"
    )
    encoder.load_state_dict(_folded(state))
    return encoder.eval()


def _without_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone is in the file twice, under two names of one module; both must say the same."""
    own = {name: value for name, value in tensors.items() if not name.startswith(ALIAS)}
    differing = sorted(
        name
        for name, value in tensors.items()
        if name.startswith(ALIAS)
        and not torch.equal(value, own.get(f"backbone.{name.removeprefix(ALIAS)}", value.new_empty(0)))
    )
    if differing:
        raise CheckpointError(
            f"{ALIAS}* and backbone.* of the encoder must be the same module, but {len(differing)} keys "
            "differ: "
            f"{differing}. The file is damaged."
        )
    return own


def _check_positions(positions: Tensor | None, encoder: SemanticEncoder) -> None:
    wanted = encoder.get_buffer("pooling.positions")
    slices = encoder.size[PLANES[encoder.config.plane][1]]
    if positions is None or positions.ndim != 3 or positions.shape[1] < slices:
        raise InputError(
            f"The encoder's {POSITIONS} must cover the {slices} slices of {encoder.config.plane} scans of "
            "size "
            f"{encoder.size}, got {None if positions is None else tuple(positions.shape)}. Check size and "
            "plane."
        )
    if (
        positions.shape[2] != wanted.shape[1]
        or (positions[0, :slices] - wanted).abs().max() > POSITION_TOLERANCE
    ):
        raise InputError(
            f"The encoder's {POSITIONS} must be the sinusoidal code. Another cannot be represented."
        )


def _backbone_names(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """timm's name of the backbone, and the old layer of each of its layers."""
    blocks = [0, 0, 0, 0]
    for name in tensors:
        if name.startswith("backbone.backbone.features.") and name.endswith(".layer_scale"):
            stage, block = (int(part) for part in name.split(".")[3:5])
            blocks[stage // 2] = max(blocks[stage // 2], block + 1)
    stem = tensors.get("backbone.backbone.features.0.0.weight")
    first, second, third, fourth = blocks
    kind = CONVNEXT.get((first, second, third, fourth, 0 if stem is None else int(stem.shape[0])))
    if kind is None:
        raise InputError(
            f"The encoder's backbone must be one of torchvision's {', '.join(CONVNEXT.values())}, got blocks "
            f"{blocks} and a first convolution of shape {None if stem is None else tuple(stem.shape)}. "
            "Others "
            "are not converted."
        )
    layers = {"stem.0": "features.0.0", "stem.1": "features.0.1", "head.norm": "classifier.0"}
    for stage, count in enumerate(blocks):
        layers |= {f"stages.{stage}.downsample.{part}": f"features.{2 * stage}.{part}" for part in (0, 1)}
        for block in range(count):
            new, old = f"stages.{stage}.blocks.{block}", f"features.{2 * stage + 1}.{block}"
            layers |= {f"{new}.{ours}": f"{old}.{theirs}" for ours, theirs in CONVNEXT_BLOCK.items()}
            layers[f"{new}.gamma"] = f"{old}.layer_scale"
    return kind, {f"backbone.net.{new}": f"backbone.backbone.{old}" for new, old in layers.items()}


def _score_name(tensors: Mapping[str, Tensor]) -> str:
    """The soft attention is one linear layer, whatever it is called."""
    found = {name.rpartition(".")[0] for name in tensors if name.startswith("soft_attention.")}
    return found.pop() if len(found) == 1 else "soft_attention.linear"


def _names(shapes: Mapping[str, Tensor], layers: Mapping[str, str], *, score: str) -> dict[str, str]:
    attention = "pooling.attention"
    table = {
        **layers,
        "pooling.score": score,
        f"{attention}.out_proj": "cross_attention.out_proj",
        "norm": "layer_norm_after_attention",
    }
    names = {}
    for name in shapes:
        layer, _, leaf = name.rpartition(".")
        if layer == attention:
            names[name] = f"cross_attention.{leaf}"
        else:
            # a layer scale is a parameter of its block, not of a layer in it
            names[name] = table[name] if name in table else f"{table[layer]}.{leaf}"
    return names


def _shapes(shapes: Mapping[str, Tensor], projected: list[str]) -> dict[str, Tensor]:
    weight = shapes["pooling.attention.out_proj.weight"]
    return {**shapes, **{name: weight if name.endswith("weight") else weight[0] for name in projected}}


def _folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two linear maps as one, B (A x + a) + b = (B A) x + (B a + b), for query, key and value."""
    own = {name: value for name, value in state.items() if "_projection." not in name}
    weights, biases = [], []
    inner = zip(
        own["pooling.attention.in_proj_weight"].double().chunk(3),
        own["pooling.attention.in_proj_bias"].double().chunk(3),
        strict=True,
    )
    for kind, (weight, bias) in zip(PROJECTIONS, inner, strict=True):
        weights.append(weight @ state[f"{kind}_projection.weight"].double())
        biases.append(weight @ state[f"{kind}_projection.bias"].double() + bias)
    own["pooling.attention.in_proj_weight"] = torch.cat(weights).float()
    own["pooling.attention.in_proj_bias"] = torch.cat(biases).float()
    return own
