# SPDX-License-Identifier: Apache-2.0
"""The 2.5D semantic encoder: a scan's slices through a 2D backbone, pooled to one code.

As in LDAE (arXiv 2504.08635).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from ldae.configured import check_numbers
from ldae.errors import InputError
from ldae.nets.backbones import BackboneConfig, make_backbone
from ldae.nets.batch_norm import SharedBatchNorm
from ldae.nets.pooling import PoolingName, make_pooling

PlaneName = Literal["sagittal", "coronal", "axial"]
NormalisationName = Literal["whiten", "layernorm"]
PLANES: dict[PlaneName, tuple[str, int]] = {
    "sagittal": ("b 1 x y z -> (b x) 1 y z", 0),
    "coronal": ("b 1 x y z -> (b y) 1 x z", 1),
    "axial": ("b 1 x y z -> (b z) 1 x y", 2),
}


@dataclass(frozen=True)
class SemanticConfig:
    """Form of the semantic encoder.

    Attributes:
        code_size: Width D of the semantic code.
        plane: Along which plane the scan is cut.
        pooling: "tokens" (every slice keeps its own say), "queries" (eight learned queries) or "attention"
            (one query, as published).
        token_size: Width of a slice's token inside the "tokens" pooling.
        normalisation: "whiten" (each number of the code has zero mean and unit variance over scans) or
            "layernorm" (over the numbers of one code, as published), which leaves the codes of similar brains
            almost equal.
        backbone: The 2D network.
    """

    code_size: int = 768
    plane: PlaneName = "axial"
    pooling: PoolingName = "tokens"
    token_size: int = 64
    normalisation: NormalisationName = "whiten"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)

    def __post_init__(self) -> None:
        """Stop on widths of which no network can be built."""
        check_numbers(self, "encoder", least={"code_size": 1, "token_size": 1})


def semantic_config(document: dict[str, Any]) -> SemanticConfig:
    """The configuration that a table of plain values says; what is left out has its default.

    Raises:
        InputError: A key or a name is not known.
    """
    names = {"plane": PlaneName, "pooling": PoolingName, "normalisation": NormalisationName}
    for key in document.keys() & names.keys():
        allowed = get_args(names[key])
        if document[key] not in allowed:
            raise InputError(f"{key} must be one of {', '.join(allowed)}, got {document[key]!r}.")
    try:
        backbone = BackboneConfig(**document.get("backbone", {}))
        return SemanticConfig(**{**document, "backbone": backbone})
    except TypeError as error:
        raise InputError(f"keys of a semantic encoder must be those of SemanticConfig: {error}.") from error


class SemanticCode(NamedTuple):
    """Semantic code [B, D] and how much each slice counted, [B, S], rows summing to one."""

    code: Tensor
    attention: Tensor


class SemanticEncoder(nn.Module):
    """Scans to semantic codes.

    Args:
        config: Form of the encoder.
        size: Sides (X, Y, Z) of the scans, in voxels.
    """

    def __init__(self, config: SemanticConfig, *, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.size = size
        self.pattern, axis = PLANES[config.plane]
        self.backbone = make_backbone(config.backbone)
        self.pooling = make_pooling(
            config.pooling,
            width=self.backbone.width,
            slices=size[axis],
            code_size=config.code_size,
            token_size=config.token_size,
        )
        self.norm: nn.Module = (
            SharedBatchNorm(config.code_size, affine=False)
            if config.normalisation == "whiten"
            else nn.LayerNorm(config.code_size)
        )

    def describe(self, x: Tensor) -> SemanticCode:
        """Scans [B, 1, X, Y, Z] in [0, 1] to codes with their slice attention.

        Raises:
            InputError: The scans do not have the encoder's size.
        """
        return self.pool(self.tokens(x))

    def tokens(self, x: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] in [0, 1] to one token a slice, [B, S, W].

        Raises:
            InputError: The scans do not have the encoder's size.
        """
        tokens: Tensor = rearrange(self.backbone(self._slices(x)), "(b s) w -> b s w", b=len(x))
        return tokens

    def pool(self, tokens: Tensor) -> SemanticCode:
        """Tokens [B, S, W] to codes with their slice attention."""
        code, attention = self.pooling(tokens)
        return SemanticCode(self.norm(code.float()), attention)

    def describe_depths(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scans [B, 1, X, Y, Z] in [0, 1] to codes [B, D] and what the backbone's depths say [B, 2 w_k].

        A depth's features are averaged over each slice, then over slices, weighted by their attention, and
        stand beside their standard deviation over slices.

        Raises:
            InputError: The scans do not have the encoder's size.
        """
        tokens, depths = self.backbone.with_depths(self._slices(x))
        code, attention = self.pool(rearrange(tokens, "(b s) w -> b s w", b=len(x)))
        pooled = []
        for depth in depths:
            slices = rearrange(depth.float(), "(b s) w -> b s w", b=len(x))
            mean = torch.einsum("bs,bsw->bw", attention.float(), slices)
            pooled.append(torch.cat([mean, slices.std(1)], 1))
        return code, pooled

    def forward(self, x: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] in [0, 1] to codes [B, D]."""
        return self.describe(x).code

    def _slices(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != tuple(self.size):
            raise InputError(f"scans must have size {self.size}, got {tuple(x.shape[2:])}.")
        slices: Tensor = rearrange(x, self.pattern)
        return slices
