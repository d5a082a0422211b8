"""Speech activity: exact marginals of the chain, the same by pieces and at any level or rate, and right on a recording."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from deepnmf_cli import SpeechActivity, load_enhancer
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import AudioError, UsageError
from deepnmf_cli.signal import activity
from deepnmf_cli.signal.activity import NEVER, QUIET_DB, Stretch
from deepnmf_cli.signal.arrays import InNumpy
from deepnmf_cli.signal.stft import FrontEnd

RATE_HZ, HOP = 16000, 256
PAIR = FrontEnd().pair(RATE_HZ)


def noise(seconds=4.0, seed=0, channels=1):
    return 0.1 * np.random.default_rng(seed).standard_normal((channels, round(seconds * RATE_HZ))).astype(np.float32)


def spectra(samples, mask):
    """Spectra (1, F, T) of samples, and a mask of (F, T) of one value for each frame."""
    found = PAIR.analysis(samples)
    return found, np.broadcast_to(mask[: found.shape[2]], found.shape[1:])


def bursts():
    """4 s of noise that is as loud as speech in every second half of a second, and the mask that keeps these."""
    on = np.arange(4 * RATE_HZ) // (RATE_HZ // 2) % 2 == 1
    mask = np.where(np.arange(252) * HOP // (RATE_HZ // 2) % 2 == 1, 1.0, 0.02)
    return spectra(noise() + on * 3 * noise(seed=1), mask)


def heard(spectrum, mask, rate_hz=RATE_HZ):
    found = SpeechActivity()
    found.listener(PAIR, rate_hz)(spectrum, mask)
    return found


class Halves(InNumpy):
    """A backend whose masks are a half, and which has a path of its own that must not be taken."""

    uses_phase = False

    def __call__(self, inputs, state):
        return np.full((1, 2, *inputs.shape[1:]), 0.5, np.float32), None

    def path(self, *_):
        return lambda samples: 0 * samples


DEMO = Path(__file__).parents[2] / "data/demo/noisy.wav"


@pytest.fixture(scope="module")
def demo():
    """A recording (1, n) with a pause from 3.3 to 4.25 s, and its rate."""
    samples, rate_hz = soundfile.read(DEMO, dtype="float32", always_2d=True)
    return samples.T, rate_hz


@pytest.fixture(scope="module")
def tiny():
    return load_enhancer("tiny", device="cpu")


def enhanced(enhancer, samples, rate_hz, *arguments, **options):
    found = SpeechActivity()
    enhancer.enhance(samples, rate_hz, *arguments, **options, activity=found)
    return found


@pytest.mark.parametrize("agreement", [0.0, 0.7, 4.0])
def test_marginals_are_those_of_all_states(agreement):
    log_odds = np.random.default_rng(3).normal(0, 3, 9)
    states = np.array(list(product([0, 1], repeat=len(log_odds))))
    exponent = states @ log_odds + agreement * (states[:, 1:] == states[:, :-1]).sum(1)
    weight = np.exp(exponent - exponent.max())
    expected = weight @ states / weight.sum()
    found = 1 / (1 + np.exp(-activity.marginal_log_odds(log_odds, agreement)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_marginals_of_extreme_evidence_are_finite():
    found = activity.marginal_log_odds(np.array([NEVER] * 2000 + [400.0] * 2000 + [NEVER]))
    assert np.isfinite(found).all() and (found[:2000] < 0).all() and (found[2000:4000] > 0).all()


def test_levels_are_powers_within_the_band():
    """A sinusoid of amplitude 1 has -5 dB, of which a mask of .1 keeps -25; below 100 Hz and from 8 kHz on nothing
    counts, whatever the rate.
    """
    time = np.arange(RATE_HZ) / RATE_HZ
    tone = spectra(np.sin(2 * np.pi * 1000 * time)[None], np.full(64, 0.1))
    recording_db, kept_db = heard(*tone).levels_db()[:, 5:-5]
    np.testing.assert_allclose(recording_db, -5.1, atol=0.1)
    np.testing.assert_allclose(kept_db, recording_db - 20, atol=1e-6)
    rumble = spectra(np.sin(2 * np.pi * 20 * time)[None], np.ones(64))
    assert heard(*rumble).levels_db()[0, 5:-5].max() < -25
    assert heard(*tone, rate_hz=1000).levels_db()[0, 5:-5].max() < -25  # there it has 62.5 Hz
    assert heard(*tone, rate_hz=160000).levels_db()[0, 5:-5].max() < -25  # and here 10 kHz


def test_loud_moments_rise_at_once_fall_in_seconds_and_sleep_in_silence():
    levels = np.concatenate([np.full(20, -40.0), np.full(20, -20.0), np.full(500, -140.0), np.full(500, -60.0)])
    loud = activity.loud_moments(levels)
    np.testing.assert_allclose(loud[:20], -40)
    np.testing.assert_allclose(loud[20:40], -20 - 20 * 0.7 ** np.arange(1, 21))
    np.testing.assert_array_equal(loud[40:540], loud[39])
    np.testing.assert_allclose(loud[540:], -60 + (loud[39] + 60) * 0.998 ** np.arange(1, 501))


def test_differences_are_those_of_the_equations():
    """Where all is noise, what is kept of it is compared with the recording less 15 dB; all are clipped."""
    recording_db, kept_db = np.full(3, -20.0), np.array([-20.0, -50.0, -90.0])
    gain, height, share = activity.differences(recording_db, kept_db)
    loud = np.array([-20, -20 - 0.002 * 30, -20 - 0.002 * 30 - 0.002 * (90 - 20.06)])
    np.testing.assert_allclose(gain, [0, -30, -30])
    np.testing.assert_allclose(height, [0, *(kept_db[1:] - loud[1:]).clip(-50)], atol=1e-3)
    np.testing.assert_allclose(share, loud + 20, atol=1e-3)
    all_noise = activity.differences(np.full(2, -20.0), np.full(2, -60.0))
    np.testing.assert_allclose(all_noise[1], -60 - (-20 - 15))


def test_stretches_begin_and_end_between_frames(monkeypatch):
    """Frame t lies around t hops."""
    found = heard(*bursts())
    monkeypatch.setattr(found, "probabilities", lambda: np.array([0.9, 0.1, 0.6, 0.8, 0.5, 0.4, 0.9]))
    assert found.stretches(6 * 0.016) == [
        Stretch(0.0, 0.008, 0.9), Stretch(0.024, 0.056, pytest.approx(0.7)), Stretch(0.088, 0.096, 0.9)
    ]  # fmt: skip


def test_bursts_that_are_kept_are_found_where_they_are():
    found = heard(*bursts()).stretches(4.0)
    assert [s.start_s for s in found] == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.1)
    assert [s.end_s for s in found] == pytest.approx([1.0, 2.0, 3.0, 4.0], abs=0.1)
    assert found[-1].end_s == 4.0 and all(0.5 < s.probability <= 1 for s in found)


def test_noise_of_one_level_is_told_by_its_mask():
    """The recording alone says nothing: speech is what is kept."""
    spectrum, mask = spectra(noise(), np.repeat([0.02, 0.9, 0.02], 84))
    (found,) = heard(spectrum, mask).stretches()
    assert (found.start_s, found.end_s) == pytest.approx((84 * 0.016, 168 * 0.016), abs=0.1)


def test_blocks_and_channels_add_up():
    spectrum, mask = bursts()
    whole, parts, channels = heard(spectrum, mask), SpeechActivity(), SpeechActivity()
    hear = parts.listener(PAIR, RATE_HZ)
    for part in (slice(0, 1), slice(1, 100), slice(100, None)):
        hear(spectrum[..., part], mask[:, part])
    np.testing.assert_allclose(parts.probabilities(), whole.probabilities(), atol=1e-9)
    for hear in [channels.listener(PAIR, RATE_HZ) for _ in range(2)]:
        hear(spectrum / np.sqrt(2), mask)
    both = heard(np.concatenate([spectrum, -spectrum]) / np.sqrt(2), mask)
    for other in (channels, both):
        np.testing.assert_allclose(other.probabilities(), whole.probabilities(), atol=1e-5)


@pytest.mark.parametrize("gain", [1e-3, 30.0])
def test_the_level_does_not_matter(gain):
    spectrum, mask = bursts()
    once, again = heard(spectrum, mask), heard(gain * spectrum, mask)
    np.testing.assert_allclose(again.probabilities(), once.probabilities(), atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 10 ** (QUIET_DB / 20 - 2)])
def test_silence_is_no_speech_and_changes_nothing_behind_it(level):
    spectrum, mask = bursts()
    quiet = level * np.ones((1, len(mask), 120))
    found = heard(np.concatenate([quiet, spectrum], -1), np.concatenate([np.ones((len(mask), 120)), mask], -1))
    assert found.probabilities()[:119].max() < 1e-6
    np.testing.assert_allclose(found.probabilities()[160:], heard(spectrum, mask).probabilities()[40:], atol=0.01)


def test_noise_that_is_taken_away_is_no_speech():
    assert heard(*spectra(noise(4), np.full(260, 0.05))).stretches() == []


def test_nothing_heard_is_nothing_found():
    found = SpeechActivity()
    assert found.probabilities().shape == (0,) and found.stretches() == [] and found.levels_db().shape == (2, 0)


def test_a_pause_in_a_recording_is_found(demo, tiny):
    samples, rate_hz = demo
    found = enhanced(tiny, samples, rate_hz)
    assert len(found.probabilities()) == -(-samples.shape[1] // 256) + 1 and found.hop_s == 0.016
    (first, second) = found.stretches(7.5)
    assert (first.start_s, first.end_s) == pytest.approx((0.62, 3.3), abs=0.2)
    assert (second.start_s, second.end_s) == pytest.approx((4.25, 7.5), abs=0.2)


@pytest.mark.parametrize("limits", [(12.0, 1.0), (None, 0.3), (0.0, 1.0), (None, 0.0)])
def test_limits_and_mix_do_not_matter(demo, tiny, limits):
    expected, found = enhanced(tiny, *demo), enhanced(tiny, *demo, *limits)
    np.testing.assert_array_equal(found.levels_db(), expected.levels_db())


@pytest.mark.parametrize("rate_hz", [8000, 44100, 48000, 96000])
def test_the_rate_hardly_matters(demo, tiny, rate_hz):
    samples, own_hz = demo
    expected, found = (
        enhanced(tiny, samples, own_hz),
        enhanced(tiny, soxr.resample(samples.T, own_hz, rate_hz).T, rate_hz),
    )
    times = np.arange(0, 7.4, 0.01)
    said = [x.probabilities()[np.rint(times / x.hop_s).astype(int)] > 0.5 for x in (expected, found)]
    assert np.mean(said[0] == said[1]) > 0.93


def test_pieces_do_not_matter_and_the_next_recording_is_not_heard(demo, tiny):
    samples, rate_hz = demo
    expected, found = enhanced(tiny, samples, rate_hz), SpeechActivity()
    stream = tiny.stream(rate_hz, 1, activity=found)
    for start in range(0, samples.shape[1], 777):
        stream.feed(samples[:, start : start + 777])
    stream.flush()
    np.testing.assert_allclose(found.levels_db(), expected.levels_db(), atol=0.1)
    stream.feed(samples)
    stream.flush()
    assert found.levels_db().shape == expected.levels_db().shape


def test_a_recording_that_is_forgotten_is_not_heard_on(demo, tiny):
    found = SpeechActivity()
    stream = tiny.stream(demo[1], 1, activity=found)
    stream.feed(demo[0][:, :16000])
    before = found.levels_db()
    stream.reset()
    stream.feed(demo[0])
    np.testing.assert_array_equal(found.levels_db(), before)


def test_many_short_blocks_are_joined():
    spectrum, mask = bursts()
    found = SpeechActivity()
    hear = found.listener(PAIR, RATE_HZ)
    for t in range(3000):
        hear(spectrum[..., t % 250, None], mask[:, t % 250, None])
    assert found.levels_db().shape == (2, 3000) and len(found._parts[0]) < activity.MOST_PARTS
    np.testing.assert_allclose(found.levels_db()[:, 2750:], heard(spectrum, mask).levels_db()[:, :250], atol=1e-5)


def test_a_second_recording_needs_an_activity_of_its_own(demo, tiny):
    found = enhanced(tiny, *demo)
    with pytest.raises(UsageError, match="activity: found one that has heard a recording"):
        tiny.enhance(*demo, activity=found)


def test_a_recording_that_was_refused_was_not_heard(demo, tiny):
    found = SpeechActivity()
    with pytest.raises(AudioError):
        tiny.enhance(np.full((1, 100), np.nan), RATE_HZ, activity=found)
    tiny.enhance(*demo, activity=found)
    np.testing.assert_array_equal(found.levels_db(), enhanced(tiny, *demo).levels_db())


def test_channels_of_their_own_are_heard_together(demo, tiny):
    """A pause of one is none where the other speaks."""
    samples, rate_hz = demo
    later = np.roll(samples, 3 * rate_hz, 1)
    found = enhanced(tiny, np.concatenate([samples, later]), rate_hz, separate=True)
    assert [s.start_s < 4 < s.end_s for s in found.stretches(7.5)] == [True]


def test_a_backend_that_goes_from_waveform_to_waveform_is_asked_for_its_masks():
    enhancer = Enhancer(Halves(), FrontEnd())
    assert not enhancer.enhance(noise(1), RATE_HZ).any()
    found = SpeechActivity()
    np.testing.assert_allclose(enhancer.enhance(noise(1), RATE_HZ, activity=found), noise(1) / 2, atol=1e-6)
    recording_db, kept_db = found.levels_db()
    np.testing.assert_allclose(kept_db, recording_db - 6.02, atol=0.01)
