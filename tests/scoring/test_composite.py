"""Segmental SNR and composite scores: those of an independent implementation, and properties."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from deepnmf_cli.scoring import composite
from deepnmf_cli.scoring.composite import EPSILON, NAMES, composite_score, segmental_snr
from deepnmf_cli.scoring.metrics import COMPOSITE
from deepnmf_cli.scoring.perceptual import NoScore, pesq_score, resampled

GOLDEN = Path(__file__).parent.parent / "golden"

voice = runpy.run_path(str(GOLDEN / "make_scores.py"))["voice"]

PYSEPM = {16000: (-1.8434152470539735, 0.5992599663071448, 27.179246141253405),
          8000: (-1.8499563731465933, 0.4170862088855367, 28.724709426110522)}  # fmt: skip
"""Rate -> SSNR, LLR, WSS by pysepm-evo 0.1.1, of `pair`."""


def pair(rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Speech with a little noise, and with more of it but in one second."""
    draw = np.random.RandomState(3)
    clean = voice(2.0, rate_hz) + 0.003 * draw.standard_normal(2 * rate_hz)
    estimate = clean + 0.02 * draw.standard_normal(2 * rate_hz)
    estimate[rate_hz // 2 : rate_hz] *= 0.1
    return clean, estimate


def parts(rate_hz: int) -> tuple[float, float, float]:
    clean, estimate = pair(rate_hz)
    order, filters = (16 if rate_hz == 16000 else 10), composite._filters(rate_hz)
    offset = clean + EPSILON, estimate + EPSILON, rate_hz
    llr = composite._over_frames(lambda s, x: composite._llr(s, x, order), *offset)
    wss = composite._over_frames(lambda s, x: composite._wss(s, x, filters), *offset)
    return segmental_snr(clean, estimate, rate_hz), composite._smallest_mean(llr), composite._smallest_mean(wss)


@pytest.mark.parametrize("rate_hz", PYSEPM)
def test_parts_are_those_of_an_independent_implementation_in_blocks_of_any_size(rate_hz, monkeypatch):
    assert parts(rate_hz) == pytest.approx(PYSEPM[rate_hz], rel=1e-9)
    monkeypatch.setattr(composite, "BLOCK_FRAMES", 7)
    assert parts(rate_hz) == pytest.approx(PYSEPM[rate_hz], rel=1e-9)


@pytest.mark.parametrize("rate_hz", PYSEPM)
def test_composites_are_the_regressions_of_hu_and_loizou(rate_hz):
    clean, estimate = pair(rate_hz)
    ssnr, llr, wss = PYSEPM[rate_hz]
    pesq = pesq_score(clean, estimate, rate_hz)
    if rate_hz == 8000:  # the raw score of P.862, whose map P.862.1 gives what the package says
        raw = composite._raw_pesq(pesq)
        assert 0.999 + 4 / (1 + np.exp(-1.4945 * raw + 4.6607)) == pytest.approx(pesq)
        pesq = raw
    found = [composite_score(clean, estimate, rate_hz, name) for name in NAMES]
    assert found == pytest.approx([
        3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss,
        1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * ssnr,
        1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss,
    ])  # fmt: skip


def test_other_rates_score_as_at_16_khz_and_scores_stay_between_1_and_5():
    clean, estimate = (resampled(x, 16000, 48000) for x in pair(16000))
    again = [resampled(x, 48000, 16000) for x in (clean, estimate)]
    for name in NAMES:
        assert composite_score(clean, estimate, 48000, name) == composite_score(*again, 16000, name)
        assert composite_score(clean, clean, 48000, name) == 5
    predictable, noise = voice(1.0, 16000), np.random.default_rng(0).standard_normal(16000)
    assert composite_score(predictable, noise, 16000, "CSIG") == 1


def test_segmental_snr_is_the_limited_mean_over_frames():
    noise = np.random.default_rng(0).standard_normal(16000)
    for snr_db in (-3.0, 12.0):
        assert segmental_snr(noise, noise * (1 + 10 ** (-snr_db / 20)), 16000) == pytest.approx(snr_db, abs=1e-9)
    assert segmental_snr(noise, noise, 16000) == 35 and segmental_snr(noise, -9 * noise, 16000) == -10


def test_what_is_shorter_than_a_frame_has_no_score_and_silence_has_one():
    with pytest.raises(NoScore, match="SSNR: too short"):
        segmental_snr(np.ones(599), np.ones(599), 16000)
    with pytest.raises(NoScore, match="CBAK: too short"):
        composite_score(np.ones(500), np.ones(500), 16000, "CBAK")
    clean, estimate = pair(16000)
    estimate[8000:16000] = 0
    assert all(1 <= metric.compute(clean, estimate, 16000) <= 5 for name, metric in COMPOSITE.items() if name != "SSNR")
