# SPDX-License-Identifier: Apache-2.0
"""The configs that come with the package: every one can be shown, and run with its sizes made small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ldae.cli.configs import flatten, read_yaml
from ldae.cli.main import main

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = ("aekl", "ldae_pretrain", "ldae_repr_learn")
UNTRAINED = "medmamba/ldae_repr_learn"
FORMS = {
    **{name: [f"{name}.yaml"] for name in NAMES},
    **{f"published/{name}": [f"{name}.yaml", f"published/{name}.yaml"] for name in NAMES},
    **{f"demo/{name}": [f"demo/{name}.yaml"] for name in NAMES},
    UNTRAINED: ["ldae_repr_learn.yaml", f"{UNTRAINED}.yaml"],
    # not a part of the published method
    "code_sampler": ["code_sampler.yaml"],
    "demo/code_sampler": ["demo/code_sampler.yaml"],
}
SUPERVISED = ("classification", "regression")
NETWORKS = ("cnn", "cnn_attention", "resnet", "densenet", "resnet50_slices")
FORMS |= {
    **{name: [f"{name}.yaml"] for name in SUPERVISED},
    **{f"demo/{name}": [f"demo/{name}.yaml"] for name in SUPERVISED},
    **{f"baselines/{name}": ["classification.yaml", f"baselines/{name}.yaml"] for name in NETWORKS},
}
BACKBONE = "model.init_args.encoder.backbone.arguments."
ARGUMENTS = "model.init_args.network.arguments"
PUBLISHED_SIZED = [form for form in FORMS if not form.startswith("demo/")]
MISSING = {
    "aekl": "SqueezeNet weights of the perceptual loss must be at",
    "ldae_repr_learn": "ImageNet weights of backbone 'convnext_small.fb_in22k_ft_in1k' are not in the local",
    "classification": "ImageNet weights of backbone 'convnext_small.fb_in22k_ft_in1k' are not in the local",
    "resnet50_slices": "ImageNet weights of backbone 'resnet50.a1_in1k' are not in the local",
}
NEEDING_WEIGHTS = [form for form in PUBLISHED_SIZED if Path(form).name in MISSING and form != UNTRAINED]
SMALL_CODE = {
    "model.init_args.encoder.code_size": "16",
    "model.init_args.encoder.token_size": "8",
    "data.init_args.batch_size": "4",
    "data.init_args.num_workers": "0",
}
# sizes, and what needs weights that are not there
SMALL = {
    "aekl": {
        "model.init_args.autoencoder.channels": "[4, 8, 8, 8]",
        "model.init_args.autoencoder.groups": "4",
        "model.init_args.loss.discriminator_channels": "4",
        "model.init_args.loss.discriminator_layers": "1",
        "model.init_args.loss.perceptual": "0",
        "data.init_args.spacing": "[10, 10, 10]",
        "data.init_args.size": "[16, 24, 16]",
        "data.init_args.num_workers": "0",
    },
    "ldae_pretrain": {
        "model.init_args.unet.base": "8",
        "model.init_args.unet.multipliers": "[1, 2]",
        "model.init_args.unet.attention_levels": "[1]",
        "model.init_args.unet.head_channels": "8",
        "model.init_args.unet.groups": "4",
        "data.init_args.batch_size": "4",
        "data.init_args.num_workers": "0",
    },
    "ldae_repr_learn": {
        **SMALL_CODE,
        # ConvNeXt halves the slices five times, which 16x24 pixels do not bear
        "model.init_args.encoder.backbone.arguments.name": "test_resnet",
        "model.init_args.encoder.backbone.arguments.pretrained": "false",
    },
    UNTRAINED: {
        **SMALL_CODE,
        "model.init_args.encoder.backbone.arguments.channels": "[8, 16]",
        "model.init_args.encoder.backbone.arguments.blocks": "[1, 1]",
    },
    "code_sampler": {
        "model.init_args.network.width": "8",
        "data.init_args.batch_size": "4",
    },
}


TINY_SCANS = {
    "data.init_args.spacing": "[10, 10, 10]",
    "data.init_args.size": "[16, 24, 16]",
    "data.init_args.batch_size": "4",
    "data.init_args.num_workers": "0",
}
ENCODER = (
    "{code_size: 16, token_size: 8, backbone: {path: ldae.nets.backbones.TimmBackbone, "
    "arguments: {name: test_resnet, pretrained: false}}}"
)
SMALL |= {name: {**TINY_SCANS, ARGUMENTS: f"{{encoder: {ENCODER}}}"} for name in SUPERVISED}
SMALL |= {
    "cnn": {**TINY_SCANS, ARGUMENTS: "{channels: [8, 16]}"},
    "cnn_attention": {**TINY_SCANS, ARGUMENTS: "{channels: [8, 16]}"},
    "resnet": {**TINY_SCANS, ARGUMENTS: "{depth: 10}"},
    "densenet": {**TINY_SCANS, ARGUMENTS: "{blocks: [2, 2], growth: 8, features: 8}"},
    "resnet50_slices": SMALL["classification"],
}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def fit(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """`ldae fit` with a config form, away from the checkout and with empty caches of weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface"))

    def run(form: str, *words: object) -> Said:
        configs = [f"--config={config}" for config in FORMS[form]]
        capfd.readouterr()
        code = main(["fit", *configs, *map(str, words)])
        captured = capfd.readouterr()
        return Said(code, captured.out, captured.err)

    return run


def overrides(form: str) -> list[str]:
    return [f"--{key}={value}" for key, value in SMALL.get(form, SMALL[Path(form).name]).items()]


def test_no_config_is_left_out() -> None:
    named = {*NAMES, *SUPERVISED, *NETWORKS, "code_sampler"}
    stages = {path for path in CONFIGS.rglob("*.yaml") if path.stem in named}
    assert stages == {CONFIGS / config for configs in FORMS.values() for config in configs}


@pytest.mark.parametrize("form", FORMS)
def test_print_config_works_before_any_stage_has_run(
    form: str, fit: Callable[..., Said], tmp_path: Path
) -> None:
    said = fit(form, "--print_config")
    assert said.code == 0, said.err
    shown = flatten(yaml.safe_load(said.out))
    written: dict[str, Any] = {}
    for config in FORMS[form]:
        more = flatten(read_yaml(CONFIGS / config))
        for given in (BACKBONE, ARGUMENTS):  # of another network, so those before are gone
            if any(key.startswith(given) for key in more):
                written = {key: value for key, value in written.items() if not key.startswith(given)}
        written |= more
    # the last file's values stand, but for tables that a choice of class fills up
    assert {key: shown[key] for key in written if key in shown} == {
        key: value for key, value in written.items() if key in shown
    }
    assert written.keys() - shown.keys() == set()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("form", NEEDING_WEIGHTS)
def test_unchanged_and_without_a_cache_it_stops_with_one_sentence(
    form: str, fit: Callable[..., Said], tiny_run: Path, tmp_path: Path
) -> None:
    name = Path(form).name
    run = tmp_path / "run"
    run.mkdir()
    # the stages before it are there, trained on the cohort of the run
    for part in (
        "cohort",
        "cache",
        *(("autoencoder", "latents", "denoiser") if name == "ldae_repr_learn" else ()),
    ):
        (run / part).symlink_to(tiny_run / part)
    words = [f"--data.init_args.cohort={tiny_run / 'cohort' / 'cohort.csv'}"]
    if name in (*SUPERVISED, *NETWORKS):
        words += [f"--{key}={value}" for key, value in TINY_SCANS.items()]
    said = fit(form, "--run_dir", run, *words)
    assert said.code == 2
    assert MISSING[name] in said.err
    assert len([line for line in said.err.splitlines() if line.startswith("ldae: ")]) == 1
    assert "Traceback" not in said.err


@pytest.mark.parametrize("form", PUBLISHED_SIZED)
def test_with_small_sizes_it_passes_a_trial_run(form: str, fit: Callable[..., Said], tiny_run: Path) -> None:
    said = fit(
        form,
        "--run_dir",
        tiny_run,
        "--trainer.fast_dev_run=true",
        "--trainer.accelerator=cpu",
        *overrides(form),
    )
    assert said.code == 0, said.err
