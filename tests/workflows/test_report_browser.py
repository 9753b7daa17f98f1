"""The report in a real browser: clicks, themes, a phone. Skipped where Chromium or its driver is not installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from asd_cli.options import PredictOptions, ReportOptions
from asd_cli.workflows.predict import predict
from asd_cli.workflows.report import make_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs Chromium and chromedriver on the path")


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory,
    make_scene: Callable[..., Path],
    make_texture: Callable[..., Any],
    random_model: Path,
) -> Path:
    """A report whose scene has a name to trip over."""
    folder = tmp_path_factory.mktemp("report")
    scene = make_scene(folder / "<script>x&'.tif", make_texture(4, 3, 150, 220).clip(1, 255).astype(np.uint8))
    raster = folder / "map.tif"
    predict(PredictOptions(scenes=(str(scene),), output=str(raster), model=random_model))
    return make_report(ReportOptions(raster=raster, output=folder / "a #1 report.html", top=5)).report


@pytest.fixture(scope="module")
def started() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(started: webdriver.Chrome, page: Path) -> Iterator[webdriver.Chrome]:
    """The page freshly opened; afterwards nothing may have gone wrong, or out to a network."""
    started.get_log("performance")
    started.get(page.as_uri())
    yield started
    assert started.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in started.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


def find(browser: webdriver.Chrome, selector: str) -> Any:
    return browser.find_element(By.CSS_SELECTOR, selector)


def chosen(browser: webdriver.Chrome) -> list[str]:
    """Numbers of what is marked: chip, pin and outline."""
    found = browser.find_elements(By.CSS_SELECTOR, "[aria-pressed='true'], .outline.selected")
    return [str(element.get_attribute("data-number")) for element in found]


def test_every_picture_is_shown(browser: webdriver.Chrome) -> None:
    sizes = browser.execute_script("return Array.from(document.images, (i) => [i.complete, i.naturalWidth])")
    assert len(sizes) == 2 + 5 * 2
    assert all(complete and width > 0 for complete, width in sizes)
    assert find(browser, "h1").text == "Anomalies in <script>x&'.tif"


@pytest.mark.parametrize("layer", ["input", "score", "polygons", "pins"])
def test_layers_can_be_switched(browser: webdriver.Chrome, layer: str) -> None:
    shown, box = find(browser, f".layer-{layer}"), find(browser, f"[data-layer='{layer}']")
    assert shown.is_displayed()
    box.click()
    assert not shown.is_displayed()
    box.click()
    assert shown.is_displayed()


def test_the_score_can_be_made_fainter(browser: webdriver.Chrome) -> None:
    slider, layer = find(browser, "#opacity"), find(browser, "#score-layer")
    assert float(layer.value_of_css_property("opacity")) == pytest.approx(0.85)
    slider.send_keys(Keys.HOME)
    assert float(layer.value_of_css_property("opacity")) == 0


def test_an_anomaly_is_marked_on_the_map_by_its_picture_and_by_its_number(browser: webdriver.Chrome) -> None:
    assert chosen(browser) == []
    find(browser, ".chip[data-number='3']").click()
    assert chosen(browser) == ["3", "3", "3"]
    assert find(browser, "#chosen").text.startswith("Anomaly 3: score ")
    browser.execute_script("document.querySelector('#map').scrollIntoView()")
    find(browser, ".pin[data-number='1']").send_keys(Keys.ENTER)
    assert chosen(browser) == ["1", "1", "1"]
    find(browser, ".pin[data-number='1']").send_keys(Keys.SPACE)
    assert chosen(browser) == []
    assert find(browser, "#chosen").text == "Choose a number on the map or a picture below."


def test_a_polygon_on_the_map_can_be_clicked(browser: webdriver.Chrome) -> None:
    find(browser, "[data-layer='pins']").click()
    browser.execute_script(
        "document.querySelector(\".outline[data-number='4']\").dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert chosen(browser) == ["4", "4", "4"]


def contrast(browser: webdriver.Chrome, selector: str) -> float:
    """WCAG contrast of a text against the card behind it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    behind = luminance(find(browser, "section").value_of_css_property("background-color"))
    text = luminance(find(browser, selector).value_of_css_property("color"))
    return (max(behind, text) + 0.05) / (min(behind, text) + 0.05)


@pytest.mark.parametrize("wish", ["light", "dark"])
def test_colours_follow_the_system_and_the_button(browser: webdriver.Chrome, wish: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": wish}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.refresh()
    other = {"light": "dark", "dark": "light"}[wish]
    for theme in (wish, other, wish):
        assert find(browser, "html").get_attribute("data-theme") == theme
        backdrop = find(browser, "body").value_of_css_property("background-color")
        assert (int(backdrop.split("(")[1].split(",")[0]) > 128) == (theme == "light")
        assert contrast(browser, "th") > 4.5
        assert contrast(browser, "h2") > 7
        find(browser, "#theme").click()


def test_on_a_phone_nothing_overflows(browser: webdriver.Chrome) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.refresh()
    try:
        assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
        edges = "Array.from(document.querySelectorAll('body *'), (e) => e.getBoundingClientRect().right)"
        assert browser.execute_script(f"return Math.max(...{edges})") <= 361
        find(browser, ".chip[data-number='2']").click()
        assert chosen(browser) == ["2", "2", "2"]
        top, bottom = browser.execute_script(
            "const r = document.querySelector('#map').getBoundingClientRect(); return [r.top, r.bottom]"
        )
        assert bottom > 0
        assert top < 740
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
