"""What encoders take: every container and sample format at the edges of its limits, and refused beyond them.

Encoders that get more than they can take may end the process, so everything is tried in another one.
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import audio, audio_writer
from deepnmf_cli.signal.formats import _SAMPLES, LIMITS, MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ, WRITABLE, AudioInfo

FORMATS = [(container, subtype) for container, subtypes in _SAMPLES.items() for subtype in subtypes]
RATES_HZ = range(MIN_RATE_HZ, MAX_RATE_HZ + 1)
FRAMES = (1, 70_001)

TRY = """
import json, os, sys
import numpy as np
import soundfile
from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import audio, audio_writer
from deepnmf_cli.signal.formats import AudioInfo
os.fsync = lambda descriptor: None  # no disk is tried here
path = sys.argv[1]
for container, subtype, rate_hz, channels, frames, level in json.load(sys.stdin):
    print(f"{container} {subtype}: {channels} channels, {frames} frames at {rate_hz} Hz, level {level}: ", end="", flush=True)
    samples = np.full((channels, frames), level, np.float32)
    samples[:, ::2] *= np.random.default_rng(0).uniform(-1, 1, samples[:, ::2].shape)
    try:
        with audio_writer.open_writer(path, AudioInfo(rate_hz, channels, frames, container, subtype)) as writer:
            writer.write(samples)
        found = soundfile.read(path, always_2d=True)[0].T  # which takes what AudioReader refuses as too loud
        print("written" if found.shape == samples.shape and audio.info(path).rate_hz == rate_hz else "changed")
    except AudioError as error:
        print(f"refused: {error}")
"""


def attempt(cases, path):
    """What became of each case (container, subtype, rate_hz, channels, frames, level): one line of text each."""
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(path)], input=json.dumps(cases), capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout.splitlines()[-1:], done.stderr[-2000:])
    assert len(done.stdout.splitlines()) == len(cases)
    return done.stdout.splitlines()


def edges(container, subtype):
    """((rates taken, rates refused), most channels, highest level) of a format."""
    limits = LIMITS.get(container) or LIMITS.get(subtype)
    if limits is None:
        return ([MIN_RATE_HZ, MAX_RATE_HZ], [MIN_RATE_HZ - 1, MAX_RATE_HZ + 1]), MAX_CHANNELS, 1.0
    taken = [rate in limits.rates_hz for rate in RATES_HZ]
    changes = [i for i in range(1, len(taken)) if taken[i] != taken[i - 1]]
    # FLAC's rates change ten thousand times; the first and the last changes stand for the others.
    near = {i for change in changes[:20] + changes[-2:] for i in (change - 1, change)} | {0, len(taken) - 1}
    rates = [[RATES_HZ[i] for i in sorted(near) if taken[i] == kind] for kind in (True, False)]
    return rates, limits.channels, limits.peak if math.isfinite(limits.peak) else 1.0


def test_every_format_takes_what_its_limits_allow(tmp_path):
    cases = []
    for container, subtype in FORMATS:
        (rates, _), channels, level = edges(container, subtype)
        cases += [(container, subtype, rate, 1, 100, level) for rate in rates]
        cases += [(container, subtype, rates[-1], channels, 100, 0.5)]
        cases += [(container, subtype, rates[0], 1, frames, level) for frames in FRAMES]
    lines = attempt(cases, tmp_path / "x")
    assert [line for line in lines if not line.endswith(": written")] == []


def test_every_format_refuses_what_is_beyond_its_limits(tmp_path):
    cases = []
    for container, subtype in FORMATS:
        (taken, refused), channels, level = edges(container, subtype)
        cases += [(container, subtype, rate, 1, 100, 0.5) for rate in refused]
        cases += [(container, subtype, taken[-1], channels + 1, 100, 0.5)]
        if subtype in LIMITS and 1 < level < 1e30:
            cases += [(container, subtype, taken[-1], 1, 100, 1.01 * level)]
    lines = attempt(cases, tmp_path / "x")
    assert [line for line in lines if "refused: " not in line] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("container", "subtype", "rate_hz", "channels", "expected"),
    [
        ("OGG", "VORBIS", 384_000, 1, "at most 64 at up to 200000 Hz in OGG"),
        ("FLAC", "PCM_16", 70_001, 1, "a multiple of 10 Hz"),
        ("FLAC", "PCM_16", 48_000, 9, "at most 8"),
        ("OGG", "OPUS", 44_100, 1, "8000, 12000, 16000, 24000 or 48000 Hz"),
    ],
)
def test_a_refusal_says_what_the_encoder_takes(tmp_path, container, subtype, rate_hz, channels, expected):
    info = AudioInfo(rate_hz, channels, 10, container, subtype)
    with pytest.raises(AudioError, match=rf"{rate_hz} Hz; expected .*{expected}.*\.wav"):
        audio_writer.open_writer(tmp_path / "x", info).__enter__()


@pytest.mark.parametrize("rate_hz", [16000, 48000, 192_000])
def test_vorbis_at_its_highest_level_errs_as_at_any_other(tmp_path, rate_hz):
    tone = np.sin(2 * np.pi * 300 * np.arange(rate_hz) / rate_hz)[None]
    for level in (1.0, LIMITS["VORBIS"].peak):
        audio_writer.write(tmp_path / "x.ogg", level * tone, rate_hz)
        error = audio.read(tmp_path / "x.ogg", "float64")[0] / level - tone
        assert np.sqrt(2 * np.mean(error**2)) < 0.03


def test_opus_clips_at_full_scale_and_counts(tmp_path):
    with audio_writer.open_writer(tmp_path / "x.opus", AudioInfo(24000, 1, 3, "OGG", "OPUS")) as writer:
        assert writer.write(np.array([[0.5, 1.5, -2.0]])).tolist() == [[0.5, 1.0, -1.0]]
    assert writer.clipped == 2


def test_levels_beyond_single_precision_are_refused_in_float(tmp_path):
    with pytest.raises(AudioError, match=r"1e\+39 times full scale"):
        audio_writer.write(tmp_path / "x.wav", np.array([[1e39]]), 16000, "FLOAT")
    audio_writer.write(tmp_path / "x.wav", np.array([[1e39]]), 16000, "DOUBLE")


def test_every_container_that_is_written_has_been_tried():
    assert set(WRITABLE.values()) <= {container for container, _ in FORMATS}


@pytest.mark.parametrize("subtype", ["OPUS", "MPEG_LAYER_III"])
def test_the_rates_that_a_message_lists_are_those_that_are_taken(subtype):
    assert [int(number) for number in re.findall(r"\d+", LIMITS[subtype].rates)] == list(LIMITS[subtype].rates_hz)


def test_levels_at_which_the_encoder_of_mp3_may_end_the_process_are_far_beyond_those_that_are_taken(tmp_path):
    with pytest.raises(AudioError, match="found a sample of 1001 times full scale; expected at most 1000 in MP3"):
        audio_writer.write(tmp_path / "x.mp3", np.full((1, 2000), 1001.0), 16000)
