# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ldae.data.artefact import read_json
from ldae.evaluation.summary import KEYS
from ldae.report.elements import Picture, Section
from ldae.report.page import Row, format_number, render_page, summary_groups, write_report

TITLES = [
    "Reconstruction",
    "Variation",
    "Counterfactuals",
    "Interpolation",
    "What the code holds",
    "Is the code used?",
    "Which slices count",
    "Training",
]


class Page(HTMLParser):
    """What the tests ask of a page: balanced tags, headings, images, links and text."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.names: list[str] = []
        self.inner: list[str] = []
        self.tables = 0
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(found)
        self.tables += tag == "table"
        self.inner += [value for key, value in found.items() if key == "srcdoc" and value]
        self.links += [value for key, value in found.items() if key in ("href", "src") and value]
        self.names += [value for key, value in found.items() if key == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if not {"style", "script"} & set(self.open):
            self.text += data


def test_a_finished_run_shows_everything(finished_run: Path) -> None:
    path = write_report(finished_run, device="cpu")
    page = Page(path.read_text(encoding="utf-8"))
    assert path == finished_run / "report.html"
    assert page.headings == ["Key figures", *TITLES]
    assert len(page.images) == 9 + 3  # and the frames of the series
    assert page.tables == 5  # key figures, reconstruction, what the heads say, interpolation, probes
    assert len(page.inner) == 1
    assert all(image["alt"] for image in page.images)
    assert page.text.count("ldae ") >= len(page.images) - 3 + page.tables - 1 + len(page.inner)
    assert "Not on this page" not in page.text
    for key in KEYS:
        assert key in page.text or key.endswith("_ci")
    assert tuple(read_json(finished_run / "summary.json"))[: len(KEYS)] == KEYS


def test_the_page_needs_nothing_else(finished_run: Path) -> None:
    path = finished_run / "report.html"
    text = (path if path.is_file() else write_report(finished_run, device="cpu")).read_text(encoding="utf-8")
    page = Page(text)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.names)
    assert len(page.names) == len(set(page.names))
    inside = Page(page.inner[0])
    assert all(link.startswith("data:image/png;base64,") for link in inside.links)
    assert text.count("<script") == 1
    assert not re.search(r"@import|https?://", text)


def test_what_is_missing_is_named(
    finished_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "partial"
    shutil.copytree(
        finished_run, run_dir, ignore=shutil.ignore_patterns("vary", "code", "codes", "summary.json")
    )
    page = Page(write_report(run_dir, device="cpu").read_text(encoding="utf-8"))
    assert page.headings == [
        "Key figures",
        *[t for t in TITLES if t not in ("Variation", "Is the code used?")],
    ]
    assert "Not on this page: Variation: run ldae vary." in page.text
    assert "Not on this page: Is the code used?: run ldae evaluate code." in page.text
    assert "gap_right" not in page.text
    assert not (run_dir / "summary.json").exists()
    assert "summary.json is not written" in caplog.text


def test_bars_are_told_honestly() -> None:
    groups = summary_groups(
        {"noise_code_std": 0.69, "probe_auc": 0.91234, "probe_auc_ci": [0.85, 0.95], "seconds_total": 812.4}
    )
    assert groups == {
        "Reconstruction": [
            Row(
                "noise_code_std",
                "0.690",
                "",
                "standard deviation of the same; 1 if Gaussian",
                (("0.8 to 1.2", False),),
            )
        ],
        "What the code holds": [
            Row(
                "probe_auc",
                "0.912",
                "0.850 to 0.950",
                "AUC of AD against CN, linear probe on the code",
                (("≥ 0.87", True),),
            )
        ],
        "Time": [Row("seconds_total", "812", "", "time of the whole run, s", ())],
    }
    text = render_page(title="demo", facts={}, groups=groups, sections=[])
    page = Page(text)
    assert "1 of 2 bars reached" in page.text
    assert "✗ not reached" in page.text


def test_names_cannot_break_the_page() -> None:
    picture = Picture(
        "data:image/png;base64,AAAA", 300, alt='a "b" <c>', caption="<script>", command="ldae <x>"
    )
    section = Section("<b>bold</b>", "a & b", [picture])
    text = render_page(
        title="<demo>", facts={"Scans": "1 < 2"}, groups={}, sections=[section], missing=["<x>"]
    )
    page = Page(text)
    assert "<script>" not in text
    assert page.images[0]["alt"] == 'a "b" <c>'
    assert page.headings == ["<b>bold</b>"]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("seconds_total", 812.44, "812"),
        ("autoencoder_psnr", 30.128, "30.13"),
        ("reconstruction_ssim", 0.99741, "0.9974"),
        ("probe_auc", 0.91, "0.910"),
    ],
)
def test_digits_fit_the_figure(key: str, value: float, text: str) -> None:
    assert format_number(key, value) == text
