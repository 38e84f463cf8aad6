# SPDX-License-Identifier: Apache-2.0
"""The published LDAE layout against its forward pass, in plain functions over the published names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ldae.data.spec import PreprocessingSpec
from ldae.errors import CheckpointError, InputError
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.nets.unet import UNet, UNetConfig
from ldae.pipeline.convert import ConversionOptions, convert_checkpoint
from ldae.pipeline.convert_encoder import convert_encoder
from ldae.pipeline.convert_ldae import Heads, convert_estimator, convert_unet
from ldae.stages.components import load_autoencoder, load_denoiser, load_representation

PARITY = 1e-4
SIZE = (32, 32, 4)
LATENT = (16, 16, 2)
SPEC = PreprocessingSpec(size=SIZE)


@dataclass
class Weights:
    """A state dict that grows while a forward pass asks for its parameters."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def get(self, name: str, *shape: int) -> Tensor:
        if name not in self.tensors:
            generator = torch.Generator().manual_seed(len(self.tensors))
            scale = 0.3 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
            self.tensors[name] = scale * torch.randn(shape, generator=generator)
        return self.tensors[name]

    def linear(self, name: str, x: Tensor, width: int) -> Tensor:
        weight, bias = self.get(f"{name}.weight", width, x.shape[-1]), self.get(f"{name}.bias", width)
        return functional.linear(x, weight, bias)

    def conv(self, name: str, x: Tensor, width: int, kernel: int = 3) -> Tensor:
        sides = (kernel,) * (x.ndim - 2)
        weight, bias = self.get(f"{name}.weight", width, x.shape[1], *sides), self.get(f"{name}.bias", width)
        convolution = functional.conv3d if x.ndim == 5 else functional.conv1d
        return convolution(x, weight, bias, padding=kernel // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        scale, bias = self.get(f"{name}.weight", x.shape[1]), self.get(f"{name}.bias", x.shape[1])
        return functional.group_norm(x, 32, 1 + scale, bias)


@dataclass(frozen=True)
class Published:
    """The published UNet and shift UNet."""

    base: int = 32
    multipliers: tuple[int, ...] = (1, 2, 3)
    blocks: int = 2
    attention: tuple[int, ...] = (1, 2)
    heads: int = 1
    head_channels: int = -1
    heads_first: bool = True

    def residual(
        self, w: Weights, name: str, x: Tensor, t: Tensor, *, y: Tensor | None, width: int, step: int = 0
    ):
        h = functional.silu(w.norm(f"{name}.in_layers.0", x))
        if step < 0:
            h, x = (functional.avg_pool3d(value, (1, 2, 2)) for value in (h, x))
        if step > 0:
            h, x = (value.repeat_interleave(2, 3).repeat_interleave(2, 4) for value in (h, x))
        h = w.norm(f"{name}.out_layers.0", w.conv(f"{name}.in_layers.2", h, width))
        scale, bias = w.linear(f"{name}.emb_layers.1", functional.silu(t), 2 * width)[
            ..., None, None, None
        ].chunk(2, 1)
        h = h * (1 + scale) + bias
        if y is not None:
            code = w.linear(f"{name}.emb_z_layers.1", functional.silu(y), 2 * width)
            scale, bias = code[..., None, None, None].chunk(2, 1)
            h = h * (1 + scale) + bias
        h = w.conv(f"{name}.out_layers.3", functional.silu(h), width)
        return h + (x if x.shape[1] == width else w.conv(f"{name}.skip_connection", x, width, 1))

    def attend(self, w: Weights, name: str, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        count = self.heads if self.head_channels < 0 else channels // self.head_channels
        tokens = w.norm(f"{name}.norm", x.flatten(2))
        rows = w.conv(f"{name}.qkv", tokens, 3 * channels, 1)
        if self.heads_first:
            q, k, v = rows.reshape(batch * count, 3, channels // count, -1).unbind(1)
        else:
            q, k, v = (part.reshape(batch * count, channels // count, -1) for part in rows.chunk(3, 1))
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(channels // count), dim=-1)
        mixed = (v @ weights.transpose(1, 2)).reshape(batch, channels, -1)
        return x + w.conv(f"{name}.proj_out", mixed, channels, 1).reshape(x.shape)

    def features(self, w: Weights, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        rates = torch.exp(-math.log(10000) * torch.arange(self.base // 2) / (self.base // 2))
        angles = t[:, None] * rates
        embedding = torch.cat([angles.cos(), angles.sin()], 1)
        embedding = functional.silu(w.linear("time_embed.0", embedding, 4 * self.base))
        embedding = w.linear("time_embed.2", embedding, 4 * self.base)
        h, place = w.conv("input_blocks.0.0", z, self.base), 0
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            for _ in range(self.blocks):
                place += 1
                name, width = f"input_blocks.{place}", multiplier * self.base
                h = self.residual(w, f"{name}.0", h, embedding, y=None, width=width)
                h = self.attend(w, f"{name}.1", h) if level in self.attention else h
                skips.append(h)
            if level < len(self.multipliers) - 1:
                place += 1
                h = self.residual(w, f"input_blocks.{place}.0", h, embedding, y=None, width=width, step=-1)
                skips.append(h)
        return embedding, h, skips

    def rise(
        self,
        w: Weights,
        features: tuple[Tensor, Tensor, list[Tensor]],
        *,
        start: str,
        y: Tensor | None,
        outputs: int,
    ):
        t, h, skips = features
        skips, width, place = list(skips), h.shape[1], 0
        h = self.residual(w, f"{start}middle_block.0", h, t, y=y, width=width)
        h = self.attend(w, f"{start}middle_block.1", h)
        h = self.residual(w, f"{start}middle_block.2", h, t, y=y, width=width)
        for level in reversed(range(len(self.multipliers))):
            width = self.multipliers[level] * self.base
            for block in range(self.blocks + 1):
                name, position = f"{start}output_blocks.{place}", 1
                h = self.residual(w, f"{name}.0", torch.cat([h, skips.pop()], 1), t, y=y, width=width)
                if level in self.attention:
                    h, position = self.attend(w, f"{name}.1", h), 2
                if level > 0 and block == self.blocks:
                    h = self.residual(w, f"{name}.{position}", h, t, y=y, width=width, step=1)
                place += 1
        return w.conv(f"{start}out.2", functional.silu(w.norm(f"{start}out.0", h)), outputs)

    def unet(self, w: Weights, z: Tensor, t: Tensor) -> Tensor:
        return self.rise(w, self.features(w, z, t), start="", y=None, outputs=z.shape[1])

    def shift(self, w: Weights, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        code = w.linear("label_emb", y, 4 * self.base)
        return self.rise(w, self.features(w, z, t), start="shift_", y=code, outputs=z.shape[1])


class RaisedWeights(Weights):
    """The scale of a normalisation is stored as 1 + w in the file."""

    def state(self) -> dict[str, Tensor]:
        is_norm = ("norm.weight", "in_layers.0.weight", "out_layers.0.weight", "out.0.weight")
        return {name: value + 1 if name.endswith(is_norm) else value for name, value in self.tensors.items()}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(2, 3, 4, 8, 4, generator=generator)
    return z, torch.tensor([7, 640]), torch.randn(2, 768, generator=generator)


FORMS = {
    "published": Published(),
    "no attention": Published(multipliers=(1, 2), blocks=1, attention=()),
    "heads of 32 channels": Published(multipliers=(1, 2), blocks=1, attention=(0, 1), head_channels=32),
    "kinds first": Published(
        multipliers=(1, 2), blocks=1, attention=(1,), head_channels=32, heads_first=False
    ),
    "two heads": Published(multipliers=(1, 2), blocks=1, attention=(1,), heads=2),
}


def heads_of(form: Published) -> Heads:
    return Heads(form.heads, form.head_channels, "heads" if form.heads_first else "kinds")


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_unet_and_estimator_compute_the_same(form: Published) -> None:
    w, (z, t, y) = RaisedWeights(), inputs()
    expected, expected_shift = form.unet(w, z, t), form.shift(w, z, t, y)
    unet = convert_unet(w.state(), heads=heads_of(form))
    estimator = convert_estimator(w.state(), heads=heads_of(form), unet=unet.config, latent_shape=(4, 8, 4))
    with torch.no_grad():
        features = unet.trunk(z, t)
        assert float((unet(z, t) - expected).abs().max()) < PARITY
        assert float((estimator.up(features, estimator.code(y)) - expected_shift).abs().max()) < PARITY
    assert expected.std() > 0.1
    assert expected_shift.std() > 0.1
    assert (unet.config.multipliers, unet.config.blocks) == (form.multipliers, form.blocks)
    assert unet.config.attention_levels == form.attention


def test_first_axis_is_not_downsampled() -> None:
    w, (z, t, _) = RaisedWeights(), inputs()
    form = Published(multipliers=(1, 1, 1), blocks=1, attention=())
    form.unet(w, z, t)
    unet = convert_unet(w.state(), heads=Heads())
    assert unet.trunk(z, t).hidden.shape[2:] == (4, 2, 1)
    with pytest.raises(
        InputError, match=r"sides along axes \(1, 2\) must be multiples of 4 for 3 levels, got \(5, 6, 4\)"
    ):
        unet(torch.zeros(1, 3, 5, 6, 4), t[:1])


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            Published(multipliers=(1, 2), attention=(0, 1), heads=2),
            r"one head or a fixed number of channels a head, got 2",
        ),
        (Published(multipliers=(2, 3)), "first level 1 times its base of 32 channels, got 128 and 64"),
    ],
)
def test_forms_without_a_counterpart_are_refused(form: Published, message: str) -> None:
    w, (z, t, _) = RaisedWeights(), inputs()
    form.unet(w, z, t)
    state = w.state()
    if form.multipliers[0] > 1:
        state["input_blocks.0.0.weight"] = torch.zeros(64, 3, 3, 3, 3)
    with pytest.raises(InputError, match=message):
        convert_unet(state, heads=heads_of(form))


def test_learned_variance_and_plane_images_are_refused() -> None:
    w, (z, t, _) = RaisedWeights(), inputs()
    Published(multipliers=(1, 2), blocks=1).unet(w, z, t)
    state = w.state()
    with pytest.raises(InputError, match="as many channels as it takes, 3, got 6"):
        convert_unet({**state, "out.2.weight": torch.zeros(6, 32, 3, 3, 3)}, heads=Heads())
    with pytest.raises(InputError, match=r"3D input_blocks and out, as published, got .* \(32, 3, 3, 3\)"):
        convert_unet({**state, "input_blocks.0.0.weight": torch.zeros(32, 3, 3, 3)}, heads=Heads())


def test_every_faulty_key_of_the_unet_is_listed() -> None:
    w, (z, t, _) = RaisedWeights(), inputs()
    Published(multipliers=(1, 2), blocks=1).unet(w, z, t)
    state = w.state()
    state["middle_block.1.qkv.bias"] = torch.zeros(5)
    state["out.9.bias"] = torch.zeros(1)
    del state["time_embed.2.bias"], state["input_blocks.2.0.out_layers.3.weight"]
    with pytest.raises(CheckpointError) as caught:
        convert_unet(state, heads=Heads())
    for part in (
        "missing ['input_blocks.2.0.out_layers.3.weight', 'time_embed.2.bias']",
        "unexpected ['out.9.bias']",
        "['middle_block.1.qkv.bias (5,) for (192,)']",
    ):
        assert part in str(caught.value)


class Encoder:
    """The published semantic encoder over torchvision's own backbone."""

    def __init__(self, *, slices: int = SIZE[2], score: str = "linear") -> None:
        from torchvision.models import convnext_tiny

        with torch.device("meta"):
            self.backbone = convnext_tiny(weights=None)
            self.backbone.features[0][0] = torch.nn.Conv2d(1, 96, 4, 4)
            self.backbone.classifier[2] = torch.nn.Identity()
        self.backbone.to_empty(device="cpu").eval()
        generator = torch.Generator().manual_seed(3)
        for value in self.backbone.parameters():
            value.data.normal_(0.1 if value.ndim == 1 else 0, value[0].numel() ** -0.5, generator=generator)
        self.width, self.score = 768, score
        place = torch.arange(slices)[:, None] * torch.exp(-math.log(10000) * torch.arange(0, 768, 2) / 768)
        self.pe = torch.zeros(1, slices, 768)
        self.pe[0, :, 0::2], self.pe[0, :, 1::2] = place.sin(), place.cos()
        self.weights = Weights()

    def __call__(self, x: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] to codes [B, 768]."""
        w, width = self.weights, self.width
        slices = x.permute(0, 4, 1, 2, 3).flatten(0, 1)
        tokens = self.backbone(slices).unflatten(0, (len(x), -1)) + self.pe[:, : x.shape[4]]
        share = w.linear(f"soft_attention.{self.score}", tokens, 1).softmax(1)
        q = w.linear("query_projection", (share * tokens).sum(1, keepdim=True), width)
        k, v = w.linear("key_projection", tokens, width), w.linear("value_projection", tokens, width)
        weight = w.get("cross_attention.in_proj_weight", 3 * width, width)
        bias = w.get("cross_attention.in_proj_bias", 3 * width)
        parts = zip((q, k, v), weight.chunk(3), bias.chunk(3), strict=True)
        q, k, v = (functional.linear(*part).unflatten(2, (8, -1)).transpose(1, 2) for part in parts)
        mixed = (q @ k.transpose(2, 3) / math.sqrt(width // 8)).softmax(-1) @ v
        out = w.linear("cross_attention.out_proj", mixed.transpose(1, 2).flatten(2), width)[:, 0]
        scale = w.get("layer_norm_after_attention.weight", width)
        return functional.layer_norm(out, (width,), scale, w.get("layer_norm_after_attention.bias", width))

    def state(self) -> dict[str, Tensor]:
        backbone = {f"backbone.backbone.{name}": value for name, value in self.backbone.state_dict().items()}
        aliases = {
            f"slice_distributed.module.{name.removeprefix('backbone.')}": value
            for name, value in backbone.items()
        }
        return {**backbone, **aliases, "positional_encoding.pe": self.pe, **self.weights.tensors}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    found = Encoder()
    with torch.no_grad():
        found(torch.rand(1, 1, *SIZE))
    return found


def test_semantic_encoder_computes_the_same(encoder: Encoder) -> None:
    x = torch.rand(2, 1, *SIZE)
    new = convert_encoder(encoder.state(), size=SIZE)
    with torch.no_grad():
        expected, (code, attention) = encoder(x), new.describe(x)
    assert float((code - expected).abs().max()) < PARITY
    assert expected.std() > 0.1
    assert attention.shape == (2, SIZE[2])
    assert new.config.backbone.arguments == {"name": "convnext_tiny", "pretrained": False}


def test_longer_positional_code_serves_fewer_slices(encoder: Encoder) -> None:
    assert convert_encoder({**encoder.state(), "positional_encoding.pe": Encoder(slices=128).pe}, size=SIZE)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"positional_encoding.pe": torch.zeros(1, 4, 768)}, InputError, "must be the sinusoidal code"),
        (
            {"positional_encoding.pe": torch.zeros(1, 3, 768)},
            InputError,
            r"cover the 4 slices of axial scans .* got \(1, 3, 768\)",
        ),
        (
            {"backbone.backbone.features.0.0.weight": torch.zeros(64, 1, 4, 4)},
            InputError,
            r"must be one of torchvision's convnext_tiny",
        ),
        (
            {"slice_distributed.module.backbone.features.0.0.bias": torch.zeros(96)},
            CheckpointError,
            "the same module, but 1 keys differ",
        ),
        (
            {"soft_attention.other.bias": torch.zeros(1)},
            CheckpointError,
            r"unexpected \['soft_attention\.other\.bias'\]",
        ),
        (
            {"key_projection.weight": torch.zeros(2, 768)},
            CheckpointError,
            r"key_projection\.weight \(2, 768\) for \(768, 768\)",
        ),
    ],
    ids=["learned positions", "too few positions", "backbone", "alias", "unexpected", "shape"],
)
def test_faulty_encoders_are_refused(
    encoder: Encoder, changes: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    state = encoder.state()
    if (
        "slice_distributed.module.backbone.features.0.0.bias" not in changes
        and "backbone.backbone.features.0.0.weight" in changes
    ):
        state["slice_distributed.module.backbone.features.0.0.weight"] = changes[
            "backbone.backbone.features.0.0.weight"
        ]
    with pytest.raises(error, match=message):
        convert_encoder({**state, **changes}, size=SIZE)


def test_other_numbers_of_heads_are_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="must have 8 attention heads, got 4"):
        convert_encoder(encoder.state(), size=SIZE, heads=4)


def hollow(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same names and shapes in next to no space, for what is refused before it is used."""
    return {name: torch.zeros(()).expand(value.shape) for name, value in tensors.items()}


def lightning_state(encoder: Encoder) -> tuple[dict[str, Tensor], Autoencoder, RaisedWeights]:
    """What a published checkpoint of stage 3 holds; the running copies differ from the averages."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(channels=(8, 16), res_blocks=1, groups=8))
    w, form = RaisedWeights(), Published(multipliers=(1, 2), blocks=1)
    z = torch.randn(1, 3, *LATENT)
    form.unet(w, z, torch.tensor([5]))
    form.shift(w, z, torch.tensor([5]), torch.randn(1, 768))
    old_names = {name: name.replace(".postconv.", ".conv.") for name in autoencoder.net.state_dict()}
    state = {f"vae.{old_names[name]}": value for name, value in autoencoder.net.state_dict().items()}
    for part, tensors in (("decoder", w.state()), ("encoder", encoder.state())):
        state |= {f"ema_{part}.{name}": value for name, value in tensors.items()}
        state |= {f"{part}.{name}": value for name, value in hollow(tensors).items()}
    return state, autoencoder.eval(), w


OPTIONS = ConversionOptions(spec=SPEC, split="a" * 64)
ARGUMENTS = {
    "vae_args": {"norm_num_groups": 8},
    "unet_args": {"num_heads": 1, "head_channel": -1, "use_new_attention_order": False},
    "timesteps_args": {"timesteps": 1000, "betas_type": "linear"},
    "enc_args": {"emb_chans": 768, "seq_len": SIZE[2]},
}


def test_stage_3_checkpoint_becomes_three_components(encoder: Encoder, tmp_path: Path) -> None:
    state, old_autoencoder, w = lightning_state(encoder)
    torch.save({"state_dict": state, "hyper_parameters": ARGUMENTS}, tmp_path / "best.ckpt")
    done = convert_checkpoint(tmp_path / "best.ckpt", tmp_path / "run", kind="ldae", options=OPTIONS)
    autoencoder, stage1 = load_autoencoder(tmp_path / "run" / "autoencoder")
    denoiser, stage2 = load_denoiser(tmp_path / "run" / "denoiser")
    config = stage2.config["unet"]
    unet = UNet(UNetConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in config.items()}))
    weights = {name: value for name, value in stage2.tensors.items() if name.startswith("unet.")}
    unet.load_state_dict({name.removeprefix("unet."): value for name, value in weights.items()})
    representation, stage3 = load_representation(tmp_path / "run" / "representation", unet=unet.config)
    x, z, t = torch.rand(1, 1, *SIZE), torch.randn(1, 3, *LATENT), torch.tensor([300])
    form = Published(multipliers=(1, 2), blocks=1)
    with torch.no_grad():
        y = representation.encoder(x)
        assert float((y - encoder(x)).abs().max()) < PARITY
        assert float((unet(z, t) - form.unet(w, z, t)).abs().max()) < PARITY
        estimator = representation.estimator
        gradient = estimator.up(unet.trunk(z, t), estimator.code(y))
        assert float((gradient - form.shift(w, z, t, y)).abs().max()) < PARITY
        assert torch.equal(autoencoder.encode(x)[0], old_autoencoder.encode(x)[0])
        latent = autoencoder.encode(x)[0]
        assert torch.allclose(denoiser.normaliser(latent), 0.8730 * latent)
    assert (stage2.config["prediction"], stage2.config["statistics"]) == ("eps", "channel")
    assert stage2.parents == {"autoencoder": stage1.sha256}
    assert stage3.parents == {"autoencoder": stage1.sha256, "denoiser": stage2.sha256}
    assert {stage.split for stage in (stage1, stage2, stage3)} == {"a" * 64}
    assert {PreprocessingSpec.from_dict(stage.spec or {}) for stage in (stage1, stage2, stage3)} == {SPEC}
    assert len(done.components) == 3
    assert "decoder.label_emb.weight" in done.left_out
    assert "ema_decoder.label_emb.weight" not in done.left_out


@pytest.mark.slow
def test_separate_files_become_the_same_components(encoder: Encoder, tmp_path: Path) -> None:
    state, _, _ = lightning_state(encoder)
    files = {"vae.": "aekl.pth", "ema_encoder.": "encoder.pth", "ema_decoder.": "decoder.pth"}
    for prefix, name in files.items():
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        torch.save(part, tmp_path / name)
    torch.save({"state_dict": state, "hyper_parameters": ARGUMENTS}, tmp_path / "best.ckpt")
    options = replace(OPTIONS, groups=8)
    sources = [tmp_path / name for name in files.values()]
    apart = convert_checkpoint(sources, tmp_path / "apart", kind="ldae", options=options)
    convert_checkpoint(tmp_path / "best.ckpt", tmp_path / "whole", kind="ldae", options=options)
    assert apart.left_out == {}
    for name in ("autoencoder", "denoiser", "representation"):
        weights = [(tmp_path / run / name / "model.safetensors").read_bytes() for run in ("apart", "whole")]
        assert weights[0] == weights[1]


def test_stage_2_checkpoint_becomes_two_components(encoder: Encoder, tmp_path: Path) -> None:
    state, _, _ = lightning_state(encoder)
    kept = {
        name.replace("decoder.", "unet.", 1) if not name.startswith("vae.") else name: value
        for name, value in state.items()
        if not name.startswith(("encoder.", "ema_encoder."))
        and ".shift_" not in name
        and ".label_emb." not in name
    }
    torch.save({"state_dict": kept, "hyper_parameters": ARGUMENTS}, tmp_path / "last.ckpt")
    done = convert_checkpoint(tmp_path / "last.ckpt", tmp_path / "run", kind="ldae", options=OPTIONS)
    assert [Path(folder).name for folder in done.components] == ["autoencoder", "denoiser"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"timesteps_args": {"betas_type": "cosine"}},
            "noise schedule must be linear, got betas_type 'cosine'",
        ),
        ({"enc_args": {"num_heads": 4}}, "must have 8 attention heads, got 4"),
    ],
)
def test_stored_arguments_without_a_counterpart_are_refused(
    encoder: Encoder, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    state, _, _ = lightning_state(encoder)
    document = {"state_dict": hollow(state), "hyper_parameters": {**ARGUMENTS, **arguments}}
    torch.save(document, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match=message):
        convert_checkpoint(tmp_path / "best.ckpt", tmp_path / "run", kind="ldae", options=OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_missing_part_is_asked_for(encoder: Encoder, tmp_path: Path) -> None:
    state, _, _ = lightning_state(encoder)
    part = {name: value for name, value in state.items() if not name.startswith(("encoder.", "ema_encoder."))}
    torch.save({"state_dict": hollow(part), "hyper_parameters": ARGUMENTS}, tmp_path / "part.ckpt")
    with pytest.raises(
        InputError, match=r"One file must hold the semantic encoder, got 0 of 1 .*part\.ckpt\. Add its file"
    ):
        convert_checkpoint(tmp_path / "part.ckpt", tmp_path / "run", kind="ldae", options=OPTIONS)


def test_size_must_suit_the_autoencoder(encoder: Encoder, tmp_path: Path) -> None:
    state, _, _ = lightning_state(encoder)
    torch.save({"state_dict": hollow(state), "hyper_parameters": ARGUMENTS}, tmp_path / "best.ckpt")
    options = replace(OPTIONS, spec=PreprocessingSpec(size=(32, 33, 16)))
    with pytest.raises(
        InputError, match=r"size must be multiples of 2, the autoencoder's factor, got \[32, 33, 16\]"
    ):
        convert_checkpoint(tmp_path / "best.ckpt", tmp_path / "run", kind="ldae", options=options)
