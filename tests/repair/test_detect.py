"""Detection: damage that was made is found where it is, and nothing else."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.repair.detect import SURE, Scanner
from deepnmf_cli.repair.spans import GAP, NOT_FINITE, read_gaps

RATE_HZ = 16000
DEMO = Path(__file__).parents[2] / "data" / "demo" / "clean.wav"


def scan(samples: np.ndarray, block: int = 65536):
    scanner = Scanner(RATE_HZ, 1)
    for start in range(0, len(samples), block):
        scanner.feed(samples[None, start : start + block])
    return scanner.finish()


def clipped(samples: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    level = share * np.abs(samples).max()
    return np.clip(samples, -level, level), level


def test_nothing_is_found_in_clean_sound(sound):
    assert not scan(sound(4.0))
    assert not scan(np.zeros(40000))


@pytest.mark.parametrize("gain", [50.0, 1000.0, 32768.0, 1e10])
def test_nothing_is_found_in_clean_sound_far_beyond_full_scale(gain):
    samples = soundfile.read(DEMO.with_name("noisy.wav"))[0]
    assert not scan(samples).clipping and not scan(gain * samples).clipping


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("gain", [1.0, 0.1, 1000.0])
def test_clipping_is_found_at_any_level(sound, share, gain):
    samples, level = clipped(sound(4.0), share)
    found = scan(np.rint(gain * samples * 32768) / 32768).clipping
    assert [c.kind for c in found] == ["hard"] and found[0].confidence > SURE
    assert 0.98 * gain * level < found[0].high <= 1.001 * gain * level
    assert 0.98 * gain * level < found[0].low <= 1.001 * gain * level


def test_clipping_of_one_side_is_found_there_alone(sound):
    samples = sound(4.0)
    found = scan(np.minimum(samples, 0.2)).clipping
    assert len(found) == 1 and abs(found[0].high - 0.2) < 0.005 and found[0].low == np.inf


def test_clipping_is_found_after_resampling(sound):
    soxr = pytest.importorskip("soxr")
    samples, level = clipped(sound(4.0), 0.4)
    again = soxr.resample(soxr.resample(samples, RATE_HZ, 44100), 44100, RATE_HZ)
    found = scan(again).clipping
    assert found and found[0].kind == "resampled" and 0.7 * level < found[0].high < 1.1 * level


def test_lost_packets_are_found_where_they_are(sound):
    samples = sound(4.0)
    lost = samples.copy()
    places = [(1600, 1920), (8300, 8620), (20500, 21140), (27000, 27320)]
    for first, end in places:
        lost[first:end] = 0
    found = scan(lost).spans
    assert [s.kind for s in found] == ["zeros"] * 4 and all(s.confidence >= SURE for s in found)
    for span, (first, end) in zip(found, places, strict=True):
        assert abs(span.first - first) <= 2 and abs(span.end - end) <= 2


def test_held_samples_are_found(sound):
    samples = sound(2.0)
    samples[8000:8200] = samples[7999]
    found = scan(samples).spans
    assert [(s.kind, s.first, s.end) for s in found] == [("frozen", 7999, 8200)]


def test_digital_silence_between_words_is_no_loss(sound):
    samples = sound(4.0)
    gate = np.convolve(np.abs(samples) > 0.02, np.ones(400), "same") > 0
    fade = np.convolve(gate, np.ones(160) / 160, "same")
    assert not [s for s in scan(np.rint(samples * fade**2 * 32768) / 32768).spans if s.confidence >= SURE]


def stored(samples: np.ndarray, subtype: str) -> np.ndarray:
    """What a WAV file of this format makes of samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, subtype, format="WAV")
    file.seek(0)
    return soundfile.read(file)[0]


@pytest.mark.parametrize("gain", [1.0, 0.7])
@pytest.mark.parametrize("subtype", ["PCM_U8", "ALAW", "ULAW"])
def test_sound_of_few_bits_that_comes_to_rest_at_a_value_is_no_loss(subtype, gain):
    """At once, and after it has become louder in 16 bits: the header does not tell of how few bits it is."""
    samples = np.rint(gain * stored(soundfile.read(DEMO)[0], subtype) * 32768) / 32768
    assert not [s for s in scan(samples).spans if s.confidence >= SURE]


@pytest.mark.parametrize("subtype", ["PCM_U8", "ALAW", "ULAW"])
@pytest.mark.parametrize("kind", ["zeros", "frozen"])
def test_losses_are_found_in_sound_of_few_bits(subtype, kind):
    samples = stored(4 * soundfile.read(DEMO)[0], subtype)
    power = np.convolve(samples**2, np.ones(480) / 480, "same")
    places = [k for k in range(4000, len(samples) - 4000, 2000) if power[k + 160] > 0.02]
    for first in places:
        samples[first : first + 320] = 0 if kind == "zeros" else samples[first - 1]
    found = [s for s in scan(samples).spans if s.confidence >= SURE and s.kind == kind]
    assert len(places) > 5
    hits = sum(any(abs(s.first - first) <= 4 and abs(s.end - first - 320) <= 4 for s in found) for first in places)
    assert hits >= 0.8 * len(places)


def test_an_offset_of_the_recording_changes_nothing():
    """A pause at its level is none the less a pause, and a held sample a loss."""
    samples = soundfile.read(DEMO)[0]
    assert not scan(samples + 0.3).spans
    assert not scan(samples - 0.3).spans
    place = 4000 + int(np.convolve(samples[4000:-4000] ** 2, np.ones(320), "valid").argmax())
    samples[place : place + 320] = samples[place - 1]
    found, moved = scan(samples).spans, scan(samples + 0.25).spans
    assert [(s.kind, s.first, s.end) for s in moved] == [(s.kind, s.first, s.end) for s in found]
    assert [s.kind for s in found] == ["frozen"]


@pytest.mark.parametrize(("gain", "offset"), [(0.3, 0.3), (0.1, -0.5), (0.01, 0.3)])
def test_sound_at_rest_at_an_offset_is_not_clipped(gain, offset):
    samples = np.rint((gain * soundfile.read(DEMO)[0] + offset) * 32768) / 32768
    assert not scan(samples).clipping


def test_clipping_of_a_recording_with_an_offset_is_found():
    samples = np.clip(soundfile.read(DEMO)[0], -0.2, 0.2)
    found = scan(np.rint((samples + 0.3) * 32768) / 32768).clipping
    assert [c.kind for c in found] == ["hard"] and abs(found[0].high - 0.5) < 0.01


def test_clicks_are_found_in_speech_and_speech_is_not_taken_for_them():
    samples = soundfile.read(DEMO)[0]
    assert not scan(samples)
    places = np.arange(10000, len(samples) - 10000, 9000)
    samples[places] += 0.5 * np.abs(samples).max()
    found = [s for s in scan(samples).spans if s.confidence >= SURE and s.kind == "click"]
    assert len(found) >= 3
    assert all(any(s.first <= place < s.end for place in places) and s.end - s.first < 24 for s in found)


def test_what_is_not_finite_is_found(sound):
    samples = sound(1.0)
    samples[5000:5100] = np.nan
    samples[7000] = np.inf
    assert [(s.kind, s.first, s.end) for s in scan(samples).spans] == [
        ("not finite", 5000, 5100), ("not finite", 7000, 7001),
    ]  # fmt: skip


def test_sizes_of_blocks_change_nothing(sound):
    samples, _ = clipped(sound(9.0), 0.7)
    for first in range(5000, 140000, 13000):
        samples[first : first + 320] = 0
    whole = scan(samples)
    assert len(whole.spans) > 5 and whole == scan(samples, 1000) == scan(samples, 7777)


def test_a_long_run_of_nan_is_one_whatever_else_is_found(sound):
    """A part of it that ends with a piece is no short gap."""
    samples = np.tile(sound(4.0), 5)
    samples[126_400:153_600] = np.nan  # a piece ends at 8 s
    samples[2000:2320] = 0
    scanner = Scanner(RATE_HZ, 1, piece_s=1.0)
    for start in range(0, len(samples), 65536):
        scanner.feed(samples[None, start : start + 65536])
    for found in (scan(samples), scanner.finish()):
        assert [(s.first, s.end) for s in found.spans if s.kind == NOT_FINITE] == [(126_400, 153_600)]


def test_a_file_of_gaps_is_read(tmp_path):
    """As Audacity writes it, with the frequencies of a label, or another program with a mark of its encoding."""
    file = tmp_path / "gaps.txt"
    file.write_text("\ufeff# labels\n0.5\t0.75\tlost \u2028 here\n\\\t100\t2000\n\n0.1, 0.15\n.15;0.2;x\n", "utf-8")
    assert [(s.first, s.end, s.kind) for s in read_gaps(file, 1000, 1000, "x.wav")] == [
        (100, 200, GAP),
        (500, 750, GAP),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1 0.3\n0.2 0.4", "line 2: found a gap that overlaps with that of .*line 1"),
        ("0.5 1.5", "line 1: found a gap that ends at 1.5 s; expected times within the 1 s of x.wav"),
        ("one two", "line 1: found 'one two'; expected START END"),
        ("0.5", "line 1: found '0.5'"), ("0.5 0.4", "line 1: found 0.5 to 0.4 s"), ("nan 0.4", "line 1: found nan"),
        ("0,5;30,5", "line 1: found '0,5;30,5'; expected times with a decimal point. Write 0.5"),
        ("0,475\t0,485", "expected times with a decimal point"), ("1,5 2", "expected times with a decimal point"),
        ("-1 0.4", "line 1: found -1 to"), ("0.1 inf", "line 1: found 0.1 to inf"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_gaps_is_refused(tmp_path, text, message):
    file = tmp_path / "gaps.txt"
    file.write_text(text)
    with pytest.raises(AudioError, match=message):
        read_gaps(file, 1000, 1000, "x.wav")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_is_no_text_is_refused(tmp_path, content):
    file = tmp_path / "gaps.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AudioError, match="no text that can be read"):
        read_gaps(file, 1000, 1000, "x.wav")


def test_where_pieces_end_changes_nothing_for_clicks_beside_losses_either():
    """Clicks of all heights, some of them in front of zeros that last."""
    samples = soundfile.read(DEMO)[0]
    draw = np.random.default_rng(0)
    places = np.arange(2000, len(samples) - 2000, 1700)
    places += draw.integers(500, size=len(places))
    samples[places] += draw.uniform(0.05, 0.8, len(places)) * np.abs(samples).max()
    for first in (16400, 32000, 36000, 78000):
        samples[first : first + 1900] = 0
        samples[first - 300] += 0.9
    whole = [s for s in scan(samples).spans if s.end - s.first <= 640]
    assert sum(s.kind == "click" for s in whole) > 5
    scanner, found = Scanner(RATE_HZ, 1, 0.005, 0.04, levels=False), []
    for piece in np.array_split(samples, 251):
        scanner.feed(piece[None])
        spans, known = scanner.taken()
        found += spans
        assert all(span.first < known for span in spans)
    found += scanner.finish().spans
    assert sorted(found, key=lambda s: (s.first, s.kind)) == sorted(whole, key=lambda s: (s.first, s.kind))
