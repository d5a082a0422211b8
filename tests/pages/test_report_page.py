"""report.html in a real browser: it plays, switches at the same place, sorts, and asks for nothing beside itself."""

import numpy as np
import pytest

from deepnmf_cli.scoring.listening import Example, rank
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.mixtures import Mixture
from deepnmf_cli.scoring.report import System, make_report, write_report
from deepnmf_cli.scoring.scorer import Scores

RATE_HZ, SECONDS = 16000, 20.0
TONES_HZ = {"reference": 500.0, "noisy": 1000.0, "a<b>": 2000.0, "ours": 4000.0}
NAMES = ["first_+3dB", "</script>_-6dB", "third_-3dB"]


def tone(hz: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ)[None]


@pytest.fixture(scope="module")
def report_page(tmp_path_factory):
    def scores(values: list[float]) -> list[Scores]:
        return [Scores(n, dict.fromkeys(METRICS, v), (), SECONDS, RATE_HZ) for n, v in zip(NAMES, values, strict=True)]

    systems = [
        System("noisy", "noisy", "n", scores([1.0, 1.5, 1.2])),
        System("a<b>", "estimate", "a", scores([2.0, 2.1, 2.2])),
        System("ours", "model", "m", scores([3.0, 2.0, 2.8]), {"parameters": 1, "macs_per_s": 1.0, "sha256": "0"}),
    ]
    known = {name: Mixture(snr, "p", f"n{snr}") for name, snr in zip(NAMES, (3.0, -6.0, -3.0), strict=True)}
    report = make_report(systems, known, "", "deepnmf evaluate", ["a remark"])
    sounds = {name: tone(hz) for name, hz in TONES_HZ.items()}
    chosen = [
        Example(title, NAMES[place], place, sounds, RATE_HZ, 0.0, SECONDS, 1.0)
        for title, place in rank(report).choose(1)
    ]
    folder = tmp_path_factory.mktemp("report")
    write_report(report, folder, chosen)
    return folder / "report.html"


def test_signals_play_in_step_and_a_switch_changes_what_is_heard_at_the_same_place(report_page, show):
    tab = show(report_page)
    case = tab.locator(".case").first
    assert case.locator("h3").inner_text() == "worst 1: </script>_-6dB"
    assert case.locator(".switch").all_inner_texts() == ["1 reference", "2 noisy", "3 a<b>", "4 ours"]

    def hears(name: str) -> None:
        tab.wait_for_function("hz => Math.abs(heard()[0] - hz) < 20 && heard()[1] > -60", arg=TONES_HZ[name])

    def starts() -> list[list[float]]:
        return tab.evaluate("started.splice(0)")

    case.locator(".play").click()
    hears("noisy")
    began = starts()
    assert len(began) == 4 and {tuple(one) for one in began} == {(began[0][0], 0)}  # at one moment, from the beginning
    case.locator(".switch").nth(3).click()
    hears("ours")
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("1")
    hears("reference")
    assert starts() == []  # all of them run on
    assert 0 < float(case.locator(".clock").inner_text().split()[0]) < SECONDS

    picture = case.locator(".picture").nth(2)
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] * 0.25, "y": 20})
    hears("a<b>")
    assert [offset for _, offset in starts()] == pytest.approx([0.25 * SECONDS] * 4, abs=0.1)

    tab.locator(".case").nth(1).locator(".play").click()
    tab.wait_for_function("started.length == 4")
    assert "Play" in case.locator(".play").inner_text()  # one case at a time


def test_tables_sort_and_show_the_chosen_score(report_page, show):
    tab = show(report_page)

    def column(number: int) -> list[str]:
        return tab.locator(f"#files tbody tr td:nth-child({number})").all_inner_texts()

    headings = tab.locator("#files thead th").all_inner_texts()
    assert headings == ["file", "SNR [dB]", "speaker", "noise", "noisy", "a<b>", "ours", "gain of a<b>", "gain of ours"]
    assert column(9) == ["+0.50", "+1.60", "+2.00"]  # the worst of what was ranked first
    tab.locator("#files thead th").nth(1).click()
    assert column(2) == ["-6", "-3", "3"]
    tab.locator("#files thead th").nth(1).click()
    assert column(2) == ["3", "-3", "-6"] and column(1)[2] == "</script>_-6dB"
    tab.select_option("#score", "STOI")
    assert column(7) == ["3.000", "2.800", "2.000"]
    assert tab.locator("#files a").all_inner_texts() == ["first_+3dB", "</script>_-6dB"]
    rows = tab.locator("#differences tbody tr td:first-child").all_inner_texts()
    assert rows == ["gain of a<b>", "gain of ours", "a<b> - ours"]
    assert tab.locator("img.figure").evaluate_all("all => all.every(one => one.naturalWidth > 100)")
