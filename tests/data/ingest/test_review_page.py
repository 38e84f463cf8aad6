# SPDX-License-Identifier: Apache-2.0
"""The review page in a real browser: decide, comment, download, and ingest takes the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from hospital import make_clinical, make_export

from ldae.data.ingest import ingest
from ldae.data.ingest.review import read_review

pytestmark = pytest.mark.slow
WAIT = 20


@pytest.fixture
def reviewed(tmp_path: Path) -> Path:
    make_export(tmp_path / "export")
    clinical = make_clinical(tmp_path / "visits.csv")
    ingest(tmp_path / "export", tmp_path / "cohort", clinical=clinical, min_slices=20)
    return tmp_path


def test_a_person_reviews_and_the_cohort_follows(reviewed: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    page = (reviewed / "cohort" / "review.html").as_uri()
    browser.get(page)
    scans = browser.find_elements(By.TAG_NAME, "article")
    assert len(scans) == 6
    sizes = [
        browser.execute_script("return arguments[0].querySelector('img').naturalWidth", s) for s in scans
    ]
    assert min(sizes) > 300
    browser.find_element(By.ID, "reviewer").send_keys('Dr. "A", B')
    scans[0].find_element(By.CSS_SELECTOR, "button[value=accept]").click()
    scans[1].find_element(By.CSS_SELECTOR, "button[value=reject]").click()
    scans[1].find_element(By.CLASS_NAME, "comment").send_keys('moved, "ringing"')
    browser.find_element(By.TAG_NAME, "h1").click()
    browser.find_element(By.TAG_NAME, "body").send_keys("ja")  # the third: accept by keyboard
    assert "2 accepted, 1 rejected, 3 undecided" in browser.find_element(By.ID, "count").text

    browser.get(page)  # decisions are kept
    assert "2 accepted, 1 rejected, 3 undecided" in browser.find_element(By.ID, "count").text
    browser.find_element(By.CSS_SELECTOR, "#show option[value=open]").click()
    assert sum(scan.is_displayed() for scan in browser.find_elements(By.TAG_NAME, "article")) == 3
    browser.find_element(By.ID, "save").click()
    target = reviewed / "downloads" / "review.csv"
    WebDriverWait(browser, WAIT).until(lambda _: target.is_file())

    assert sorted(read_review(target).decisions.values()) == ["accept", "accept", "reject"]
    assert 'moved, ""ringing""' in target.read_text()
    summary = ingest(
        reviewed / "export",
        reviewed / "cohort",
        clinical=reviewed / "visits.csv",
        min_slices=20,
        reviews=[target],
    )
    assert summary.accepted == 5
    browser.execute_script("localStorage.clear()")
    browser.get(page)  # what another reviewer sees: the decision before is told, and is not theirs
    scans = browser.find_elements(By.TAG_NAME, "article")
    assert ["earlier review" in scan.text for scan in scans].count(True) == 1
    assert "0 accepted, 0 rejected, 6 undecided" in browser.find_element(By.ID, "count").text
    browser.find_element(By.CSS_SELECTOR, "#show option[value=reject]").click()
    assert sum(scan.is_displayed() for scan in scans) == 1
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
