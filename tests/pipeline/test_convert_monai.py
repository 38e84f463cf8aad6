# SPDX-License-Identifier: Apache-2.0
"""Parity with MONAI Generative: the same weights give the same numbers in MONAI's core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldae.errors import CheckpointError, InputError
from ldae.nets.autoencoder import AutoencoderConfig
from ldae.pipeline.convert import ConversionOptions, convert_checkpoint
from ldae.pipeline.convert_monai import convert_autoencoder, convert_diffusion_unet, infer_autoencoder_config
from ldae.stages.components import load_autoencoder

PARITY = 1e-4

ATTENTION = {
    "none": ((False, False), False),
    "levels": ((False, True), False),
    "all levels": ((True, True), False),
    "nonlocal": ((False, False), True),
    "levels and nonlocal": ((False, True), True),
}


def randomised(module: nn.Module) -> Any:
    """Weights away from their initial values, so that a wrong or missing layer shows."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def old_autoencoder(attention: str = "levels and nonlocal", **changes: Any) -> Any:
    nets = pytest.importorskip(
        "generative.networks.nets", reason="needs monai-generative: pip install -e '.[test]'"
    )
    levels, nonlocal_attention = ATTENTION[attention]
    arguments = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "num_channels": (8, 16),
        "latent_channels": 3,
        "num_res_blocks": 2,
        "norm_num_groups": 8,
        "attention_levels": levels,
        "with_encoder_nonlocal_attn": nonlocal_attention,
        "with_decoder_nonlocal_attn": nonlocal_attention,
    }
    torch.manual_seed(0)
    return randomised(nets.AutoencoderKL(**{**arguments, **changes}))


def old_unet(**changes: Any) -> tuple[Any, dict[str, Any]]:
    nets = pytest.importorskip(
        "generative.networks.nets", reason="needs monai-generative: pip install -e '.[test]'"
    )
    arguments: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "num_res_blocks": 1,
        "num_channels": (8, 16),
        "attention_levels": (False, True),
        "norm_num_groups": 8,
        "num_head_channels": 8,
        **changes,
    }
    torch.manual_seed(0)
    return randomised(nets.DiffusionModelUNet(**arguments)), arguments


def largest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


@pytest.mark.parametrize("attention", ATTENTION)
def test_autoencoder_has_parity(attention: str) -> None:
    old = old_autoencoder(attention)
    new = convert_autoencoder(old.state_dict(), groups=8)
    x, z = torch.rand(1, 1, 8, 12, 8), torch.randn(1, 3, 4, 6, 4)
    with torch.no_grad():
        mean, sigma = old.encode(x)
        new_mean, new_sigma = new.encode(x)
        assert largest(new_mean, mean) < PARITY
        assert largest(new_sigma, sigma) < PARITY
        assert largest(new.decode(z), old.decode(z)) < PARITY
        assert old.decode(z).std() > 0.1


@pytest.mark.parametrize("attention", ATTENTION)
def test_autoencoder_config_is_read_from_the_weights(attention: str) -> None:
    levels, nonlocal_attention = ATTENTION[attention]
    assert infer_autoencoder_config(old_autoencoder(attention).state_dict(), groups=8) == AutoencoderConfig(
        channels=(8, 16),
        latent_channels=3,
        res_blocks=2,
        groups=8,
        attention_levels=tuple(level for level, has in enumerate(levels) if has),
        nonlocal_attention=nonlocal_attention,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resblock_updown": True},
        {"attention_levels": (False, False)},
        {"with_conditioning": True, "cross_attention_dim": 5},
        {"include_fc": True},
    ],
    ids=["attention", "residual updown", "no attention", "cross-attention", "core with out_proj"],
)
def test_diffusion_unet_has_parity(changes: dict[str, Any]) -> None:
    old_changes = {name: value for name, value in changes.items() if name != "include_fc"}
    old, arguments = old_unet(**old_changes)
    new = convert_diffusion_unet(old.state_dict(), {**arguments, **changes})
    inputs: dict[str, Tensor] = {"x": torch.randn(2, 3, 8, 8, 4), "timesteps": torch.tensor([3, 700])}
    if "cross_attention_dim" in changes:
        inputs["context"] = torch.randn(2, 4, 5)
    with torch.no_grad():
        expected = old(**inputs)
        assert largest(new(**inputs), expected) < PARITY
        assert expected.std() > 0.1


def test_lightning_checkpoint_becomes_a_component(tmp_path: Path) -> None:
    old = old_autoencoder()
    state = {f"autoencoder.{name}": value for name, value in old.state_dict().items()}
    state["discriminator.final.weight"] = torch.ones(2)
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 1e-4}}, tmp_path / "stage1.ckpt")
    done = convert_checkpoint(
        tmp_path / "stage1.ckpt",
        tmp_path / "autoencoder",
        kind="autoencoder",
        options=ConversionOptions(groups=8),
    )
    new, component = load_autoencoder(tmp_path / "autoencoder")
    x = torch.rand(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert largest(new.encode(x)[0], old.encode(x)[0]) < PARITY
    assert done.components == {str(tmp_path / "autoencoder"): component.sha256}
    assert "discriminator.final.weight" in done.left_out
    assert sum("proj_attn" in name for name in done.left_out) == 2 * len(
        [k for k in state if k.endswith("to_q.weight")]
    )


def test_groups_come_from_lightning_arguments(tmp_path: Path) -> None:
    old = old_autoencoder("none")
    document = {"state_dict": old.state_dict(), "hyper_parameters": {"vae_args": {"norm_num_groups": 8}}}
    torch.save(document, tmp_path / "stage1.ckpt")
    convert_checkpoint(tmp_path / "stage1.ckpt", tmp_path / "autoencoder", kind="autoencoder")
    assert load_autoencoder(tmp_path / "autoencoder")[1].config["groups"] == 8


def test_every_faulty_key_is_listed() -> None:
    state = dict(old_autoencoder("levels").state_dict())
    state["quant_conv_mu.conv.bias"] = torch.zeros(7)
    state["extra.weight"] = torch.zeros(1)
    del state["decoder.blocks.0.conv.weight"], state["post_quant_conv.conv.bias"]
    with pytest.raises(CheckpointError) as caught:
        convert_autoencoder(state, groups=8)
    for part in (
        "missing ['decoder.blocks.0.conv.weight', 'post_quant_conv.conv.bias']",
        "unexpected ['extra.weight']",
        "['quant_conv_mu.conv.bias (7,) for (3,)']",
    ):
        assert part in str(caught.value)


def test_trained_output_projection_of_the_core_is_not_dropped() -> None:
    from monai.networks.nets import AutoencoderKL

    core = AutoencoderKL(
        spatial_dims=3,
        channels=(8, 16),
        num_res_blocks=(1, 1),
        attention_levels=(False, True),
        norm_num_groups=8,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )
    with pytest.raises(CheckpointError, match=r"unexpected \['decoder\.blocks\.2\.attn\.out_proj\.bias'"):
        convert_autoencoder(core.state_dict(), groups=8)


@pytest.mark.parametrize(
    ("changes", "groups", "message"),
    [
        ({"num_res_blocks": (1, 2)}, 8, r"same number of residual blocks, got \[1, 2\]"),
        ({}, 32, r"multiples of the 32 groups of the normalisations, got \[8, 16\]"),
    ],
)
def test_what_cannot_be_represented_is_refused(changes: dict[str, Any], groups: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert_autoencoder(old_autoencoder("none", **changes).state_dict(), groups=groups)


def test_unet_arguments_must_fit() -> None:
    with pytest.raises(InputError, match=r"Arguments must be those of monai's DiffusionModelUNet: .*levels"):
        convert_diffusion_unet({}, {"levels": 3})
