"""`deepnmf stream --repair`: what `repair` and then `stream` give, a told time later."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from deepnmf_cli.commands.options import LONGEST_GAP_MS
from deepnmf_cli.errors import EXIT_FAILED, EXIT_USAGE
from deepnmf_cli.repair.live import LONGEST_S

RATE_HZ = 16000
DEMO = Path(__file__).parents[2] / "data" / "demo" / "clean.wav"


@pytest.fixture
def clean(loud_voice):
    return loud_voice(2.0)


@pytest.fixture
def halved(stub):
    """An enhancer that halves its input."""
    stub.stream = lambda rate_hz, channels: SimpleNamespace(latency_samples=512)
    return stub


def lost(clean: np.ndarray) -> np.ndarray:
    samples = clean.copy()
    for first in (7600, 20600, 31900):
        samples[first : first + 160] = 0
    return samples


def test_gaps_are_filled_before_the_noise_is_removed_and_the_delay_is_told(deepnmf, folder, halved, clean):
    soundfile.write("in.wav", lost(clean), RATE_HZ, "FLOAT")
    assert deepnmf("repair", "in.wav", "-o", "whole.wav").code == 0
    data, whole = (soundfile.read(name, dtype="float32")[0] for name in ("in.wav", "whole.wav"))
    assert (data != whole).sum() > 300
    options = "--format", "f32le"
    expected = deepnmf("stream", *options, stdin=whole.tobytes())
    for more in ([], ["--block", 700], ["--longest-gap", 20, "--fix", "gaps"]):
        result = deepnmf("stream", *options, "--repair", *more, stdin=data.tobytes())
        assert result.code == 0 and result.out == expected.out
        assert "Repaired 2 intervals of zeros.\n" in result.err
    assert "of which 98 ms are for repair, plus the block" in result.err
    first = deepnmf("stream", *options, "--repair", stdin=data.tobytes())
    assert "181 ms behind, of which 149 ms are for repair, plus the block" in first.err
    whole = deepnmf("stream", *options, "--repair", stdin=whole.tobytes())
    assert "There was nothing to repair.\n" in whole.err and whole.out == expected.out
    assert LONGEST_GAP_MS == 1000 * LONGEST_S


def test_clipping_needs_its_level(deepnmf, folder, halved):
    clean = soundfile.read(DEMO, start=RATE_HZ, frames=RATE_HZ)[0]
    level = 0.4 * np.abs(clean).max()
    data = np.clip(clean, -level, level).astype("<f4").tobytes()
    result = deepnmf("stream", "--format", "f32le", "--repair", "--clip-level", 20 * np.log10(level) - 0.01, stdin=data)
    assert result.code == 0 and "clipped samples.\n" in result.err and len(result.out) == len(data)
    before, after = (
        ((x - clean) ** 2).sum() for x in (np.frombuffer(data, "<f4"), 2 * np.frombuffer(result.out, "<f4"))
    )
    assert after < before / 2
    result = deepnmf("stream", "--format", "f32le", "--repair", "--clip-level", "0", stdin=data)
    assert result.code == 0 and "Warning: no sample has reached the --clip-level of 0 dB." in result.err
    plain = deepnmf("stream", "--format", "f32le", "--repair", stdin=data)
    assert "There was nothing to repair" in plain.err


def test_what_is_not_a_number_is_a_gap_for_repair_alone(deepnmf, folder, halved, clean):
    samples = clean.astype("<f4")
    samples[7600:7760] = np.nan
    options = "--format", "f32le"
    result = deepnmf("stream", *options, "--repair", stdin=samples.tobytes())
    assert result.code == 0 and "Repaired 1 interval of non-finite samples.\n" in result.err
    assert np.isfinite(np.frombuffer(result.out, "<f4")).all()
    for more in ([], ["--repair", "--fix", "clicks"]):
        result = deepnmf("stream", *options, *more, stdin=samples.tobytes())
        assert result.code == EXIT_FAILED and "standard input: found a sample that is not finite" in result.err


@pytest.mark.parametrize(("seconds", "told"), [(0.1, "0.10"), (1.0, "1.00"), (1.5, "1.50")])
def test_what_is_not_a_number_for_too_long_is_told(deepnmf, folder, halved, clean, seconds, told):
    samples = clean.astype("<f4")
    samples[4000 : 4000 + round(seconds * RATE_HZ)] = np.nan
    result = deepnmf("stream", "--format", "f32le", "--repair", "--quiet", stdin=samples.tobytes())
    assert result.code == 0
    assert result.err.endswith(f"Warning: {told} s of gaps too long to be filled are silent.\n")
    result = deepnmf("stream", "--format", "f32le", "--repair", stdin=samples.tobytes())
    assert "nothing to repair" not in result.err and result.err.count("silent") == 1


@pytest.mark.parametrize("seconds", [0.03, 1.5])
@pytest.mark.parametrize("channels", [(0,), (1,), (0, 1)])
def test_a_channel_without_any_number_is_an_error_after_all_of_it(deepnmf, folder, halved, clean, seconds, channels):
    samples = np.stack([clean, clean])[:, : round(seconds * RATE_HZ)].astype("<f4")
    samples[list(channels)] = np.nan
    result = deepnmf("stream", "--format", "f32le", "--channels", 2, "--repair", stdin=samples.T.tobytes())
    assert result.code == EXIT_FAILED and len(result.out) == samples.nbytes
    assert f"damage from beginning to end, in channel {channels[0] + 1}" in result.err
    assert "Record it again." in result.err and "--clip-level" not in result.err


def test_what_cannot_be_is_refused(deepnmf, folder, halved):
    square = (0.5 * np.sign(np.sin(np.arange(8000) / 7 + 0.1))).astype("<f4").tobytes()
    for options, code, message in (
        (["--fix", "gaps"], EXIT_USAGE, "no --repair"),
        (["--longest-gap", "20"], EXIT_USAGE, "no --repair"),
        (["--repair", "--fix", "clipping"], EXIT_USAGE, "clipping alone, and no --clip-level"),
        (["--repair", "--fix", "clipping, clipping"], EXIT_USAGE, "clipping alone, and no --clip-level"),
        (["--repair", "--fix", "gaps", "--clip-level", "-3"], EXIT_USAGE, "--fix without clipping"),
        (["--repair", "--longest-gap", "200"], EXIT_USAGE, "5<=x<=100"),
        (["--repair", "--clip-level", "-7"], EXIT_FAILED, "damage from beginning to end"),
    ):
        result = deepnmf("stream", "--format", "f32le", *options, stdin=square)
        assert (result.code, message in result.err) == (code, True), (options, result.err)
        assert len(result.out) == (len(square) if code == EXIT_FAILED else 0)
