"""Whether channels belong together: calls against stereo recordings, by scenes made of voices and noise."""

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import coherence
from deepnmf_cli.signal.coherence import are_separate

RATE_HZ = 16000
SECONDS = 4.0


@pytest.fixture
def speaker(voice):
    """speaker(k) -> (N,): different voices, as the pitch of one is shifted by its rate."""

    def make(number):
        samples = voice(SECONDS, RATE_HZ + 1500 * number)[: round(SECONDS * RATE_HZ)]
        return np.pad(samples, (0, round(SECONDS * RATE_HZ) - len(samples)))

    return make


@pytest.fixture
def noise(hiss):
    return lambda seed: hiss(SECONDS, RATE_HZ, seed)


def room(seed, seconds=0.3):
    """An impulse response (n,): a direct sound, and a tail that dies away."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tail = np.random.default_rng(seed).standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[:40] = 0
    tail[seed % 40] = 8
    return tail


def call(speaker, noise, echo_db=-200.0, level=0.1):
    half = np.arange(round(SECONDS * RATE_HZ)) < SECONDS * RATE_HZ / 2
    one, other, echo = speaker(0) * half, speaker(1) * ~half, 10 ** (echo_db / 20)
    sides = np.stack([one + echo * np.roll(other, 300), other + echo * np.roll(one, 300)])
    return sides + level * np.stack([noise(0), noise(1)])


def panned(speaker, noise, level=1.0):
    """As in a mixed programme: a voice off the middle, between sides that have nothing in common."""
    return np.stack([speaker(0), 0.5 * speaker(0)]) + level * np.stack([noise(0), noise(1)])


def spaced(speaker, noise):
    """Two microphones in a room."""
    heard = [np.convolve(speaker(0), room(seed))[: round(SECONDS * RATE_HZ)] for seed in (1, 22)]
    return np.stack(heard) / 8 + 0.3 * np.stack([noise(0), noise(1)])


SCENES = {
    "call": (lambda s, n: call(s, n), True),
    "noisy call": (lambda s, n: call(s, n, level=1.0), True),
    "call with echo": (lambda s, n: call(s, n, echo_db=-25), True),
    "voice and hiss": (lambda s, n: np.stack([s(0), 0.01 * n(0)]), True),
    "dual mono": (lambda s, n: np.stack([s(0) + n(0), s(0) + n(0)]), False),
    "opposite phase": (lambda s, n: np.stack([s(0) + n(0), -s(0) - n(0)]), False),
    "one quieter": (lambda s, n: np.stack([s(0) + n(0), 0.01 * (s(0) + n(0))]), False),
    "panned": (lambda s, n: panned(s, n), False),
    "spaced": (lambda s, n: spaced(s, n), False),
    "one silent": (lambda s, n: np.stack([s(0) + n(0), 0 * n(0)]), False),
    "silence": (lambda s, n: np.stack([0 * n(0), 0 * n(0)]), False),
    "mono": (lambda s, n: (s(0) + n(0))[None], False),
    "stereo and a third": (lambda s, n: np.stack([s(0), s(0), s(1)]) + 0.1 * np.stack([n(0), n(1), n(2)]), False),
    "nine": (lambda s, n: np.stack([n(seed) for seed in range(9)]), False),
    "short": (lambda s, n: call(s, n)[:, :12000], False),
}


@pytest.mark.parametrize("name", SCENES)
def test_calls_are_separate_and_scenes_are_not(speaker, noise, tmp_path, name):
    make, expected = SCENES[name]
    soundfile.write(tmp_path / "scene.wav", make(speaker, noise).T, RATE_HZ, "FLOAT")
    assert are_separate(tmp_path / "scene.wav") is expected


@pytest.mark.parametrize("rate_hz", [8000, 44100])
def test_the_rate_does_not_matter(speaker, noise, tmp_path, rate_hz):
    for name, (make, expected) in [(key, SCENES[key]) for key in ("call", "panned")]:
        soundfile.write(tmp_path / f"{name}.wav", make(speaker, noise).T, rate_hz, "FLOAT")
        assert are_separate(tmp_path / f"{name}.wav") is expected


def test_the_first_five_minutes_decide(speaker, noise, tmp_path, monkeypatch):
    assert coherence.LONGEST_S == 300
    one, two = call(speaker, noise), panned(speaker, noise)
    soundfile.write(tmp_path / "scene.wav", np.concatenate([one, two], 1).T, RATE_HZ, "FLOAT")
    assert not are_separate(tmp_path / "scene.wav")
    monkeypatch.setattr(coherence, "LONGEST_S", one.shape[1] / RATE_HZ)
    assert are_separate(tmp_path / "scene.wav")


def test_coherence_is_that_of_its_definition():
    """Two channels of y = x + n of equal power are coherent by 1/4: the share 1/2 of what they have in common, squared."""
    common, one, other = np.random.default_rng(0).standard_normal((3, 60 * RATE_HZ)).astype(np.float32)
    blocks = np.array_split(np.stack([common + one, common + other]), 7, axis=1)
    assert coherence.coherence(iter(blocks), RATE_HZ) == pytest.approx(0.25, abs=0.01)
    assert coherence.coherence([np.stack([one, other])], RATE_HZ) == pytest.approx(0.0, abs=0.005)
    assert coherence.coherence([np.stack([one, -3 * one])], RATE_HZ) == pytest.approx(1.0, abs=1e-4)


def test_a_file_that_cannot_be_read_is_called_by_its_name(tmp_path):
    (tmp_path / "bad.wav").write_text("text")
    with pytest.raises(AudioError, match="standard input"):
        are_separate(tmp_path / "bad.wav", "standard input")
