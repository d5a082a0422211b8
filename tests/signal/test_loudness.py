"""Loudness by EBU R 128: known signals of EBU Tech 3341, and the gain that reaches a target without clipping."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli import Treatment, enhance_file
from deepnmf_cli.errors import EXIT_FAILED, EXIT_USAGE, UsageError
from deepnmf_cli.signal import audio
from deepnmf_cli.signal.loudness import Leveller, Meter

RATE_HZ = 48000


def tone(level_dbfs: float, seconds: float, rate_hz: int = RATE_HZ, frequency_hz: float = 997.0) -> np.ndarray:
    return 10 ** (level_dbfs / 20) * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def measured(samples: np.ndarray, rate_hz: int = RATE_HZ) -> tuple[float, float]:
    meter = Meter(rate_hz, len(samples))
    for first in range(0, samples.shape[1], 10_007):
        meter.push(samples[:, first : first + 10_007])
    return meter.result()


@pytest.mark.parametrize("rate_hz", [8000, 44100, 48000])
@pytest.mark.parametrize("level", [-23.0, -33.0])
def test_a_sine_of_997_hz_in_both_channels_is_as_loud_as_its_level(rate_hz, level):
    sine = tone(level, 5, rate_hz)
    loudness, peak = measured(np.stack([sine, sine]), rate_hz)
    assert loudness == pytest.approx(level, abs=0.05)  # the tolerance of EBU Tech 3341 is 0.1
    assert peak == pytest.approx(10 ** (level / 20), abs=0.002)
    assert measured(sine[None], rate_hz)[0] == pytest.approx(level - 3.01, abs=0.05)


@pytest.mark.parametrize("rate_hz", [1000, 2000, 3000, 4000, 7999])
def test_low_rates_are_measured_too(rate_hz):
    """The weighting has a corner that they do not have."""
    assert measured(tone(-20.0, 3.0, rate_hz, 300.0)[None], rate_hz)[0] == pytest.approx(-23.5, abs=0.5)


def test_any_length_is_measured_to_its_end():
    sine = tone(-23, 5.0307)
    sine[-20:] = 0.5 * np.hanning(20)  # behind the last whole 100 ms
    loudness, peak = measured(np.stack([sine, sine]))
    assert loudness == pytest.approx(-23, abs=0.05) and peak == pytest.approx(0.5, abs=0.05)


def test_quiet_stretches_are_gated():
    # Case 3 of EBU Tech 3341: -36, -23 and -36 LUFS, of which the gates leave the middle.
    gated = np.concatenate([tone(-36, 10), tone(-23, 60), tone(-36, 10)])
    assert measured(np.stack([gated, gated]))[0] == pytest.approx(-23, abs=0.1)
    with_silence = np.concatenate([tone(-23, 30), np.zeros(20 * RATE_HZ)])
    assert measured(np.stack([with_silence, with_silence]))[0] == pytest.approx(-23, abs=0.1)


def test_peaks_between_samples_are_seen():
    # A quarter of the rate, 45 degrees off: the samples are at 0.707 of the peak.
    sine = 0.5 * np.sin(np.pi / 2 * np.arange(RATE_HZ) + np.pi / 4) * np.hanning(RATE_HZ)
    assert np.abs(sine).max() < 0.36 and measured(np.stack([sine, sine]))[1] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("channels", [1, 2, 6, 10])
def test_one_gain_brings_all_channels_to_the_target(tmp_path, channels):
    samples = 0.01 * np.random.default_rng(0).standard_normal((channels, 2 * RATE_HZ)).astype(np.float32)
    leveller, seconds = Leveller(-30, tmp_path / "x.wav"), []
    process = leveller.after(lambda blocks, *_: iter(blocks), seconds.append)
    pieces = [samples[:, :30_000], samples[:, 30_000:30_001], samples[:, 30_001:]]
    out = np.concatenate(list(process(pieces, RATE_HZ, channels)), axis=1)
    gain = out[0, 0] / samples[0, 0]
    np.testing.assert_allclose(out, gain * samples, rtol=1e-5)
    assert measured(out)[0] == pytest.approx(-30, abs=0.1)
    assert leveller.loudness.after == pytest.approx(-30, abs=0.01) and leveller.loudness.note == ""
    assert sum(seconds) == pytest.approx(2) and not list(tmp_path.iterdir())


def test_the_true_peak_stays_below_the_limit_and_that_is_said(deepnmf, stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clicks = tone(-40, 3)
    clicks[::9600] = 0.5
    soundfile.write("in.wav", np.stack([clicks, clicks]).T, RATE_HZ, "PCM_24")
    result = deepnmf("enhance", "in.wav", "-o", "out.wav", "--loudness", "-16", "--json")
    assert result.code == 0
    row = json.loads(result.out.splitlines()[0])
    out, _ = audio.read("out.wav")
    loudness, peak = measured(out)
    assert 0.86 < peak <= 10 ** (-1 / 20) + 0.001 and row["clipped"] == 0
    assert row["loudness"]["after"] == pytest.approx(loudness, abs=0.1) and row["loudness"]["after"] < -17
    assert "LUFS and not -16, as its peaks would rise above -1 dBTP" in row["notes"][0]
    gain = out[0].max() / (0.5 * audio.read("in.wav")[0][0].max())
    np.testing.assert_allclose(out, gain * 0.5 * audio.read("in.wav")[0], atol=2e-5)


def test_targets_are_reached_and_silence_stays_silence(deepnmf, stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    soundfile.write("in/a.wav", np.stack([tone(-40, 3)] * 2).T, RATE_HZ, "PCM_24")
    soundfile.write("in/b.wav", np.zeros(RATE_HZ), RATE_HZ)
    result = deepnmf("enhance", "in", "-o", "out", "--loudness", "-23", "--json")
    rows = {row.get("input"): row for row in map(json.loads, result.out.splitlines())}
    assert rows["in/a.wav"]["loudness"] == {"before": pytest.approx(-46, abs=0.1), "after": -23}
    assert measured(audio.read("out/a.wav")[0])[0] == pytest.approx(-23, abs=0.05)
    assert (
        rows["in/b.wav"]["loudness"] == {"before": None, "after": None}
        and "it is silent" in rows["in/b.wav"]["notes"][0]
    )
    assert not audio.read("out/b.wav")[0].any()
    assert json.loads(deepnmf("enhance", "in/a.wav", "-o", "c.wav", "--json").out.splitlines()[0])["loudness"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loudness", "-71"], "--loudness: found -71; expected -70 to -5 LUFS"),
        (["--loudness", "-4.9"], "expected -70 to -5 LUFS"),
        (["--loudness", "nan"], "found nan"),
        (["--loudness", "-16", "--noise-out", "n.wav"], "--loudness: found --noise-out beside it"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(deepnmf, stub, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    soundfile.write("in.wav", tone(-30, 0.1), RATE_HZ)
    result = deepnmf("enhance", "in.wav", "-o", "out.wav", *arguments)
    assert result.code == EXIT_USAGE and message in result.err and os.listdir() == ["in.wav"]


def test_python_refuses_what_the_command_refuses(stub, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(-20, 1), RATE_HZ)
    source, target, noise = (tmp_path / name for name in ("a.wav", "b.wav", "n.wav"))
    with pytest.raises(UsageError, match="--noise-out beside it"):
        enhance_file(stub, source, target, Treatment(loudness_lufs=-16.0), removed=noise)
    with pytest.raises(UsageError, match="found 3; expected -70 to -5 LUFS"):
        enhance_file(stub, source, target, Treatment(loudness_lufs=3.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_without_the_extra_the_option_names_it(deepnmf, stub, tmp_path, monkeypatch, without_media):
    monkeypatch.chdir(tmp_path)
    soundfile.write("in.wav", tone(-30, 0.1), RATE_HZ)
    result = deepnmf("enhance", "in.wav", "-o", "out.wav", "--loudness", "-16")
    assert result.code == EXIT_FAILED and 'pip install "deepnmf[media]"' in result.err


def test_what_the_process_raises_is_not_taken_for_a_full_disk(tmp_path):
    def process(blocks, rate_hz, channels):
        yield np.zeros((channels, 100), np.float32)
        raise OSError("the recording is gone")

    levelled = Leveller(-30, tmp_path / "x.wav").after(process, lambda seconds: None)
    with pytest.raises(OSError, match=r"^the recording is gone$"):
        list(levelled([], RATE_HZ, 1))
