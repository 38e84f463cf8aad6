# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: the slider, the viewer, its width, and that it asks nobody for anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ldae.report.page import write_report

pytestmark = pytest.mark.slow
WAIT = 20
VISIBLE = "return [...document.querySelectorAll('.frame')].map(frame => frame.offsetHeight > 0)"
# every picture of the visible frames that is decoded and takes up room; a screenshot would hang now and then
PICTURES = """
    return [...document.querySelectorAll('.frame')].filter(frame => frame.offsetHeight > 0)
        .flatMap(frame => [...frame.querySelectorAll('img')])
        .filter(image => image.complete && image.naturalWidth > 0 && image.offsetHeight > 0)
        .map(image => image.currentSrc).join(' ')
"""
PAINTED = """
    const canvas = document.querySelector('canvas');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return pixels.data.reduce((sum, value) => sum + value);
"""


@pytest.fixture(scope="module")
def page(finished_run: Path) -> str:
    return write_report(finished_run, device="cpu").as_uri()


@pytest.fixture
def opened(browser: Any, page: str) -> Any:
    browser.get(page)
    return browser


def enter_viewer(browser: Any) -> None:
    """Go on in the viewer's document, once it has taken its place."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.switch_to.frame(browser.find_element("tag name", "iframe"))
    wide = "return document.querySelector('canvas').width > 0.9 * innerWidth"
    WebDriverWait(browser, WAIT).until(lambda _: browser.execute_script(wide))


def test_nothing_fails_and_nothing_is_asked_for(opened: Any, page: str) -> None:
    enter_viewer(opened)
    assert opened.execute_script(PAINTED) > 0
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    asked = [one["request"]["url"] for one in sent if not one["documentURL"].startswith("chrome")]
    assert page in asked
    assert not [url for url in asked if not url.startswith(("data:", "about:")) and url != page]
    assert not [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_fits_its_window(opened: Any, width: int) -> None:
    opened.set_window_size(width, 900)
    inner, wanted = opened.execute_script(
        "return [document.documentElement.clientWidth, document.documentElement.scrollWidth]"
    )
    assert width - 20 <= inner <= width
    assert wanted <= inner
    opened.switch_to.frame(opened.find_element("tag name", "iframe"))
    inner, wanted = opened.execute_script(
        "return [document.documentElement.clientWidth, document.documentElement.scrollWidth]"
    )
    assert wanted <= inner


def test_the_slider_changes_picture_and_label(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    series = opened.find_element("class name", "series")
    slider, label = (series.find_element("tag name", name) for name in ("input", "output"))
    opened.execute_script("arguments[0].scrollIntoView()", series)
    slider.send_keys(Keys.HOME)
    count = len(opened.find_elements("class name", "frame"))
    seen = []
    for place in range(count):
        assert opened.execute_script(VISIBLE) == [place == number for number in range(count)]
        assert slider.get_attribute("aria-valuetext") == label.text
        seen.append((label.text, opened.execute_script(PICTURES)))
        slider.send_keys(Keys.ARROW_RIGHT)
    assert len({text for text, _ in seen}) == len({picture for _, picture in seen}) == count > 2
    assert all(picture.startswith("data:image/") for _, picture in seen)
    assert sum(text.startswith("Target P(AD) = ") for text, _ in seen) == count - 1
    assert opened.execute_script("return document.activeElement.type") == "range"
    assert opened.execute_script("return arguments[0].labels[0].textContent", slider) == "P(AD)"


def test_a_click_walks_through_the_viewer(opened: Any) -> None:
    from selenium.webdriver import ActionChains

    enter_viewer(opened)
    before = opened.execute_script(PAINTED)
    canvas = opened.find_element("tag name", "canvas")
    ActionChains(opened).move_to_element_with_offset(canvas, 30, 20).click().perform()
    assert opened.execute_script(PAINTED) != before


def test_without_scripts_the_series_is_a_strip(browser: Any, page: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page)
    frames = browser.find_elements("class name", "frame")
    places = [frame.rect for frame in frames]
    assert len(places) > 2
    assert all(frame.is_displayed() and "the head says" in frame.text for frame in frames)
    assert len({place["y"] for place in places[:3]}) == 1
    assert not browser.find_element("tag name", "input").is_displayed()
