# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ldae.evaluation.likeness import PSNR_CEILING, PUBLISHED_RULE, RULE, LpipsRule, Panel, volume_lpips
from ldae.nets.perceptual import SQUEEZENET_FILE

CPU = torch.device("cpu")


def pair(*size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 1, *size, generator=generator) for _ in range(2))
    return (0.8 * first + 0.2 * second).clamp(0, 1), first


class SquaredDifference(nn.Module):
    """A distance in closed form in place of LPIPS, which takes and gives the same shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        assert a.shape[1] == 3
        return (a - b).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def test_lpips_is_the_mean_over_all_slices_of_all_planes() -> None:
    image, reference = pair(6, 8, 4)
    expected = (image - reference).square().flatten(1).mean(1)
    plain = LpipsRule(signed=False)
    torch.testing.assert_close(
        volume_lpips(SquaredDifference(), image, reference, rule=plain), expected, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        volume_lpips(SquaredDifference(), image, reference), 4 * expected, atol=1e-5, rtol=0
    )


def test_published_lpips_adds_planes_of_half_of_the_slices() -> None:
    image, reference = torch.zeros(1, 1, 6, 8, 4), torch.zeros(1, 1, 6, 8, 4)
    image[:, :, ::2] = 1  # a squared difference of 1 in half of the slices of one plane, 0.5 in all others
    values = {
        round(
            float(volume_lpips(SquaredDifference(), image, reference, rule=PUBLISHED_RULE.lpips, seed=n)), 4
        )
        for n in range(12)
    }
    # three of six slices are drawn, of which 0 to 3 differ; the two other planes give 0.5 each
    assert values <= {1.0, 1.3333, 1.6667, 2.0}
    assert len(values) > 1


def test_lpips_inside_a_mask_ignores_what_lies_outside() -> None:
    image, reference = pair(6, 8, 4)
    mask = torch.zeros_like(image, dtype=torch.bool)
    mask[:, :, 2:4] = True
    spoiled = torch.where(mask, image, torch.zeros(()))
    found = [volume_lpips(SquaredDifference(), x, reference, mask=mask) for x in (image, spoiled)]
    torch.testing.assert_close(*found)


def test_lpips_is_left_out_and_said_where_its_weights_are_not_at_hand(torch_home: Path) -> None:
    panel = Panel.of((32, 40, 32), device=CPU)
    assert panel.names == ["ssim", "ms_ssim", "psnr", "mse"]
    assert any(SQUEEZENET_FILE in note and "LPIPS is left out" in note for note in panel.notes)


def test_lpips_is_taken_where_its_weights_are_at_hand(torch_home: Path) -> None:
    from torchvision.models import squeezenet1_1

    path = torch_home / "hub" / "checkpoints" / SQUEEZENET_FILE
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    panel = Panel.of((32, 40, 32), device=CPU)
    assert panel.names[-1] == "lpips"
    assert panel.notes == ()
    image, reference = pair(32, 40, 32)
    image[0] = reference[0]
    found = panel.measure(image, reference)["lpips"]
    assert found.shape == (3,)
    assert found[0].abs() < 1e-6
    assert (found[1:] > 1e-4).all()


def test_small_volumes_have_no_ms_ssim(torch_home: Path) -> None:
    panel = Panel.of((16, 24, 16), device=CPU)
    assert "ms_ssim" not in panel.names
    assert any("MS-SSIM is left out: it needs 28 voxels a side" in note for note in panel.notes)


@pytest.mark.parametrize(("rule", "window"), [(RULE, 11), (PUBLISHED_RULE, 3)])
def test_ssim_has_the_window_of_the_rule(torch_home: Path, rule, window: int) -> None:
    from monai.metrics import SSIMMetric

    image, reference = pair(16, 24, 16)
    expected = SSIMMetric(spatial_dims=3, win_size=window, kernel_sigma=1.5, data_range=1.0)(image, reference)
    found = Panel.of((16, 24, 16), rule=rule, device=CPU).measure(image, reference)["ssim"]
    torch.testing.assert_close(found, expected[:, 0], atol=2e-5, rtol=0)


def test_equal_volumes_have_a_finite_psnr(torch_home: Path) -> None:
    image, _ = pair(16, 24, 16)
    assert (Panel.of((16, 24, 16), device=CPU).measure(image, image)["psnr"] == PSNR_CEILING).all()
