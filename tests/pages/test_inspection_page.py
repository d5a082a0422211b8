"""The page of an inspection in a real browser, and its picture."""

import io

import numpy as np
import pytest
from PIL import Image

from deepnmf_cli.inspector.panels import Lines, Panel, Section, html, png

RATE_HZ, SECONDS = 16000, 20.0


@pytest.fixture
def sections():
    def tone(hz: float) -> np.ndarray:
        return 1.5 * np.sin(2 * np.pi * hz * np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ)[None]

    ramp = np.linspace(0, 1, 20)[:, None] * np.ones(30)
    panels = [Panel(f"{hz} Hz <b>", ramp, 0, 1, "8 kHz", "20 s", samples=tone(hz)) for hz in (1000, 3000)]
    panels.append(Panel("mask", ramp, 0, 1, "8 kHz", "20 s", "viridis"))
    lines = Lines("Level", "dB", {"one": (np.arange(5.0), np.arange(5.0))})
    heard = Section("Heard", "a text", {"peak": "1"}, panels, lines, rate_hz=RATE_HZ, seconds=SECONDS)
    seen = Section("Seen", panels=panels[2:], table=(("unit", "follows", "level"), [["1", "mask", "+0.5"]]))
    return [heard, seen]


def test_sounds_play_beside_pictures_without_sound(sections, show, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(html("noisy.wav", sections), "utf-8")
    tab = show(path)
    assert tab.locator(".switch").all_inner_texts() == ["1 1000 Hz <b>", "2 3000 Hz <b>"]
    hears = "hz => Math.abs(heard()[0] - hz) < 20 && heard()[1] > -60"
    tab.locator(".play").click()
    tab.wait_for_function(hears, arg=1000)
    tab.locator(".case .picture").nth(1).click()
    tab.wait_for_function(hears, arg=3000)
    head = tab.locator(".case .head").nth(2).evaluate("head => parseFloat(head.style.left)")
    assert head >= 49  # the mask shows the place that is heard too
    assert tab.locator("td").all_inner_texts() == ["peak", "1", "1", "mask", "+0.5"]
    assert tab.locator("img").evaluate_all("all => all.every(one => one.naturalWidth >= 30)")


def test_the_picture_has_all_panels(sections):
    image = Image.open(io.BytesIO(png("noisy.wav", sections)))
    rows = 3  # three panels, curves, one panel
    assert image.width == round(3.6 * 4 * 120) and image.height == round((0.6 + 2.5 * rows) * 120)
    assert len(set(np.asarray(image.convert("L")).ravel().tolist())) > 50
