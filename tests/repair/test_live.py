"""Repair of streams: what files get, to the last bit, a told time later."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.repair.detect import Scanner
from deepnmf_cli.repair.examine import RepairOptions
from deepnmf_cli.repair.live import LONGEST_S, LiveRepairer, repaired_live
from deepnmf_cli.repair.model import TASKS
from deepnmf_cli.repair.repairer import Repairer
from deepnmf_cli.repair.spans import HARD, Clipping, Findings, Span

RATE_HZ = 16000
DEMO = Path(__file__).parents[2] / "data" / "demo" / "clean.wav"
PAGE = Path(__file__).parents[2] / "docs" / "repair.md"


def damaged(sound, seconds: float = 3.0) -> np.ndarray:
    """Two channels with lost packets, alone, in bursts and close together, held samples, clicks, and NaN."""
    samples = np.stack([sound(seconds), 0.7 * sound(seconds + 0.3)[-round(seconds * RATE_HZ) :]])
    for first, length in ((3000, 320), (9000, 640), (9800, 100), (9950, 90), (20600, 160), (40000, 320)):
        samples[0, first : first + length] = 0
    samples[1, 8000:8200] = samples[1, 7999]
    samples[1, [15000, 30123]] += 0.9
    samples[1, 25000:25100] = np.nan
    samples[0, 47900:48000] = np.nan
    return samples


def offline(samples: np.ndarray, longest_s: float | None = None) -> np.ndarray:
    """What `deepnmf repair` makes of gaps and clicks."""
    scanner = Scanner(RATE_HZ, len(samples))
    scanner.feed(samples)
    findings = Findings(scanner.finish().spans)
    limit = {} if longest_s is None else {"longest_s": longest_s}
    repairer = Repairer(findings, RepairOptions().load(TASKS), RATE_HZ, len(samples), **limit)
    return np.concatenate([repairer.feed(samples), repairer.flush()], -1)


def live(samples: np.ndarray, size: int, **more) -> tuple[np.ndarray, LiveRepairer, list[int]]:
    """The output, and how far it lagged behind after every piece."""
    repairer = LiveRepairer(more.pop("options", RepairOptions()), RATE_HZ, len(samples), **more)
    pieces, came, lags = [], 0, []
    for start in range(0, samples.shape[1], size):
        pieces.append(repairer.feed(samples[:, start : start + size]))
        came += pieces[-1].shape[1]
        lags.append(min(start + size, samples.shape[1]) - came)
    return np.concatenate([*pieces, repairer.flush()], -1), repairer, lags


@pytest.mark.parametrize("size", [256, 7777])
def test_a_stream_gets_what_files_get_to_the_last_bit(sound, size):
    samples = damaged(sound)
    found, repairer, lags = live(samples, size)
    np.testing.assert_array_equal(found, offline(samples))
    assert repairer.found == {"zeros": 6, "frozen": 1, "click": 1, "not finite": 2}
    assert max(lags) <= repairer.latency_samples < 0.16 * RATE_HZ
    changed = found != samples
    assert changed[0, 9000:9640].all() and not changed[:, 10100:14900].any()


def test_longer_gaps_stay_and_a_longer_limit_fills_them_later(sound):
    samples = sound(2.0)[None].copy()
    samples[0, 8000:9000] = 0
    samples[0, 20000:20320] = 0
    short, first, _ = live(samples, 256)
    long, second, _ = live(samples, 256, longest_s=0.08)
    assert not short[0, 8000:9000].any() and short[0, 20000:20320].all()
    np.testing.assert_array_equal(long, offline(samples))
    np.testing.assert_array_equal(short[:, 10000:], long[:, 10000:])
    delay = second.latency_samples - first.latency_samples
    assert LONGEST_S == 0.04 and 0.06 * RATE_HZ < delay < 0.08 * RATE_HZ


@pytest.mark.parametrize(
    ("row", "fixes", "longest_s", "clip_level_db"),
    [
        ("by default, for gaps of up to 40 ms", ("gaps", "clicks"), 0.04, None),
        ("`--fix gaps`: clicks", ("gaps",), 0.04, None),
        ("`--fix gaps --longest-gap 20`", ("gaps",), 0.02, None),
        ("`--longest-gap 100`", ("gaps", "clicks"), 0.1, None),
        ("`--clip-level`, with any of these", ("gaps", "clicks", "clipping"), 0.04, -6.0),
    ],
)
def test_delays_are_those_that_the_page_promises(row, fixes, longest_s, clip_level_db):
    (line,) = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| {row}")]
    promised = int(line.split("|")[2].split()[0])
    options = RepairOptions(fixes, clip_level_db=clip_level_db)
    delay = LiveRepairer(options, RATE_HZ, 1, longest_s).latency_samples
    if clip_level_db is not None:  # "96 ms more"
        delay -= LiveRepairer(RepairOptions(("gaps", "clicks")), RATE_HZ, 1, longest_s).latency_samples
    assert round(1000 * delay / RATE_HZ) == promised


def test_what_is_not_finite_for_long_becomes_silent(sound):
    samples = sound(2.0)[None].copy()
    samples[0, 8000:12000] = np.inf
    found, _, _ = live(samples, 1000)
    assert not found[0, 8000:12000].any()
    whole = np.r_[0:8000, 12000:32000]
    np.testing.assert_array_equal(found[0, whole], samples[0, whole])


def test_held_samples_that_last_stay_as_they_are(sound):
    """A held value is silence at any level; zero would be a step at both ends."""
    samples = sound(2.0)[None] + 0.25
    samples[0, 8000:12000] = 0.27
    samples[0, 12300:12500] = np.nan
    scanner = Scanner(RATE_HZ, 1)
    scanner.feed(samples)
    assert [(s.kind, s.first) for s in scanner.finish().spans] == [("frozen", 8000), ("not finite", 12300)]
    found, _, _ = live(samples, 1000, longest_s=0.1)
    np.testing.assert_array_equal(found, offline(samples))
    assert np.isfinite(found).all()
    whole = np.r_[0:12300, 12500:32000]
    np.testing.assert_array_equal(found[0, whole], samples[0, whole])


def test_a_marked_gap_that_is_too_long_becomes_silent(sound):
    samples = sound(1.0)[None]
    findings = Findings([Span(4000, 8000, "gap"), Span(8100, 8200, "gap")])
    repairer = Repairer(findings, RepairOptions().load(TASKS), RATE_HZ, 1)
    found = np.concatenate([repairer.feed(samples), repairer.flush()], -1)
    assert not found[0, 4000:8000].any() and repairer.counts.notes == (
        "0.25 s of gaps too long to be filled are silent",
    )


def test_clipping_is_restored_from_a_given_level_on():
    clean = soundfile.read(DEMO, start=RATE_HZ, frames=RATE_HZ)[0][None]
    level = 0.5 * np.abs(clean).max()
    samples = np.clip(clean, -level, level)
    options = RepairOptions(clip_level_db=20 * np.log10(level) - 0.001)
    found, repairer, lags = live(samples, 256, options=options)
    again, _, _ = live(samples, 5001, options=options)
    np.testing.assert_array_equal(found, again)
    before, after = (((x - clean) ** 2).sum() for x in (samples, found))
    assert after < before / 4 and repairer.declipped > 100 and not repairer.is_below_level
    assert 0.2 * RATE_HZ < max(lags) <= repairer.latency_samples < 0.25 * RATE_HZ
    untouched, quiet, _ = live(samples / 10, 5000, options=options)
    np.testing.assert_array_equal(untouched, samples / 10)
    assert quiet.is_below_level


def test_a_stream_that_cannot_be_repaired_is_an_error_after_all_of_it(sound):
    square = 0.5 * np.sign(np.sin(np.arange(8000) / 7 + 0.1))[None]
    repairer = LiveRepairer(RepairOptions(clip_level_db=-7.0), RATE_HZ, 1)
    assert sum(piece.shape[1] for piece in repaired_live(np.split(square, 8, 1), repairer)) == 8000
    with pytest.raises(AudioError, match="damage from beginning to end, in channel 1"):
        repairer.require_whole()
    repairer = LiveRepairer(RepairOptions(fixes=("clicks",)), RATE_HZ, 1)
    with pytest.raises(AudioError, match="not finite"):
        repairer.feed(np.full((1, 10), np.nan))


@pytest.mark.parametrize("length", [0, 1, 100])
def test_short_streams_keep_their_length(length):
    found, _, _ = live(np.full((2, length), 0.25), 30)
    np.testing.assert_array_equal(found, np.full((2, length), 0.25))


def test_many_short_gaps_are_filled_in_few_groups(sound):
    samples = sound(1.0)[None]
    findings = Findings([Span(k, k + 1, "gap", 1.0, 0) for k in range(3000, 6000, 4)])
    repairer = Repairer(findings, RepairOptions().load(TASKS), RATE_HZ, 1)
    groups = list(repairer._gaps[0].groups)
    assert len(groups) == 10 and all(end - first <= 320 for first, end in groups)
    assert all(a[1] <= b[0] for a, b in pairwise(groups))
    found = np.concatenate([repairer.feed(samples), repairer.flush()], -1)
    inside = np.zeros(16000, bool)
    inside[3000:6000:4] = True
    np.testing.assert_array_equal(found[0, ~inside], samples[0, ~inside])
    assert ((found - samples) ** 2).sum() < 0.3 * (samples[0, inside] ** 2).sum()


def test_gaps_and_clipping_together_do_not_depend_on_pieces(sound):
    clean = sound(2.5)[None]
    level = 0.6 * np.abs(clean).max()
    samples = np.clip(clean, -level, level)
    samples[0, 15900:16100] = 0
    findings = Findings([Span(15900, 16100, "zeros")], [Clipping(0, level, level, HARD)])
    models = RepairOptions().load(TASKS)
    outputs = []
    for size in (40000, 999):
        repairer = Repairer(findings, models, RATE_HZ, 1)
        pieces = [repairer.feed(samples[:, i : i + size]) for i in range(0, 40000, size)]
        outputs.append(np.concatenate([*pieces, repairer.flush()], -1))
        assert repairer.counts.declipped == (np.abs(samples) >= level).sum()
    np.testing.assert_array_equal(*outputs)
