"""Enhancement by pieces and as a whole: alignment, level, channels, rates."""

import numpy as np
import pytest
import torch

from deepnmf_cli import zoo
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import AudioError
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.dnn import DnnSettings
from deepnmf_cli.signal.stft import FrontEnd

FRONT_END = FrontEnd()
SETTINGS = {
    "deep-nmf": {"context": 3, "atoms": 4, "iterations": 3},
    "dnmf": {"context": 3, "atoms": 4, "iterations": 3},
    "sparse-nmf": {"context": 3, "atoms": 4, "iterations": 3},
    "dnn": {"context": 3, "hidden": (16,)},
    "grid": {"channels": 4, "iterations": 2},
    "mean-field": {"context": 3, "hidden": (16,)},
    "belief-propagation": {"context": 3, "hidden": (16,)},
    "power-mean": {"context": 3, "hidden": (16,)},
    "recurrent-ista": {"context": 2, "atoms": 4, "iterations": 2},
    "recurrent-nmf": {"context": 2, "atoms": 4, "iterations": 2},
    "rnn": {"cell": "lstm", "hidden": 6},
    "grid-rnn": {"channels": 4, "iterations": 2},
    "grid-field": {"channels": 4, "iterations": 2},
    "grid-fixed": {"channels": 4, "iterations": 2},
}


class PassAll(MaskNetwork):
    """Speech everywhere: what comes out must be what went in."""

    def masks(self, evidence, state):
        ones = torch.ones_like(evidence)
        return torch.stack([ones, 0 * ones], 1), None


class PassNone(MaskNetwork):
    """Noise everywhere."""

    def masks(self, evidence, state):
        ones = torch.ones_like(evidence)
        return torch.stack([0 * ones, ones], 1), None


def random_network(name: str) -> MaskNetwork:
    torch.manual_seed(2)
    return build(name, NETWORKS[name][1](**SETTINGS[name])).eval()


def enhancer_of(network: MaskNetwork) -> Enhancer:
    return Enhancer(TorchBackend(network), FRONT_END)


def recording(seconds: float = 0.7, rate_hz: int = 16000, channels: int = 1, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    length = round(seconds * rate_hz)
    envelope = 0.1 + np.sin(np.linspace(0, 9, length)) ** 2
    return (0.1 * draw.standard_normal((channels, length)) * envelope).astype(np.float32)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_any_partition_gives_the_offline_output(name: str, seed: int) -> None:
    samples = recording(channels=2)
    network = random_network(name)
    whole = enhancer_of(network).enhance(samples, 16000)
    draw, stream, start, pieces = np.random.default_rng(seed), enhancer_of(network).stream(16000, 2), 0, []
    while start < samples.shape[1]:
        size = int(draw.choice([0, 1, 7, 255, 256, 257, 3000]))
        pieces.append(stream.feed(samples[:, start : start + size]))
        start += size
    pieces.append(stream.flush())
    streamed = np.concatenate(pieces, -1)
    assert streamed.shape == samples.shape
    np.testing.assert_allclose(streamed, whole, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 44100, 48000, 192000])
@pytest.mark.parametrize("length", [1, 100, 12345])
def test_passing_everything_returns_the_input_at_every_rate_and_length(rate_hz: int, length: int) -> None:
    samples = recording(1.6, rate_hz)[:, :length]
    np.testing.assert_allclose(enhancer_of(PassAll()).enhance(samples, rate_hz), samples, atol=1e-6)


@pytest.mark.parametrize("shape", [(100,), (1, 100), (2, 2, 100)])
def test_chunks_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioError, match=r"expected samples of shape \(2, n\)"):
        enhancer_of(PassAll()).stream(16000, 2).feed(np.zeros(shape))


def test_the_last_samples_may_be_given_to_flush() -> None:
    samples = recording()
    expected = enhancer_of(random_network("grid")).enhance(samples, 16000)
    stream = enhancer_of(random_network("grid")).stream(16000, 1)
    pieces = [stream.feed(samples[:, :5000]), stream.flush(samples[:, 5000:].tolist())]
    np.testing.assert_allclose(np.concatenate(pieces, -1), expected, rtol=0, atol=1e-6)
    with pytest.raises(AudioError, match=r"expected samples of shape \(1, n\)"):
        stream.flush(np.zeros(5))


def test_flush_starts_a_new_recording() -> None:
    stream = enhancer_of(random_network("grid")).stream(16000, 1)
    samples = recording()
    twice = [np.concatenate([stream.feed(samples), stream.flush()], -1) for _ in range(2)]
    assert np.array_equal(*twice)


@pytest.mark.parametrize(
    "front_end,latency",
    [
        (FRONT_END, 512),
        (FrontEnd(hop_s=0.008), 256),
        (FrontEnd(hop_s=0.008, window_hops=4), 256),
        (FrontEnd(hop_s=0.004, window_hops=8), 128),
    ],
)
def test_latency_is_two_hops_whatever_the_analysis_window(front_end: FrontEnd, latency: int) -> None:
    stream = Enhancer(TorchBackend(PassAll()), front_end).stream(16000, 1)
    samples = np.zeros((1, 4096), np.float32)
    samples[0, 1024] = 1.0
    outputs = [stream.feed(samples[:, i : i + 1]) for i in range(4096)]
    heard_after = next(i for i, out in enumerate(outputs) if out.size and out.max() > 0.5)
    assert stream.latency_samples == latency
    assert heard_after - 1024 == latency - 1  # the window's last sample is the one that completes it


@pytest.mark.parametrize("front_end", [FrontEnd(hop_s=0.008, window_hops=4), FrontEnd(hop_s=0.005, window_hops=3)])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_asymmetric_windows_stream_what_they_give_offline(front_end: FrontEnd, rate_hz: int) -> None:
    samples = recording(rate_hz=rate_hz)
    enhancer = Enhancer(TorchBackend(PassAll()), front_end)
    np.testing.assert_allclose(enhancer.enhance(samples, rate_hz), samples, atol=1e-6)
    network = build("dnn", DnnSettings(bins=front_end.bins, context=3, hidden=(16,)))
    enhancer = Enhancer(TorchBackend(network), front_end)
    stream = enhancer.stream(rate_hz, 1)
    pieces = [stream.feed(samples[:, i : i + 99]) for i in range(0, samples.shape[1], 99)]
    streamed = np.concatenate([*pieces, stream.flush()], -1)
    np.testing.assert_allclose(streamed, enhancer.enhance(samples, rate_hz), atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("gain_db", [-40.0, 20.0])
def test_gain_of_the_input_is_the_gain_of_the_output(name: str, gain_db: float) -> None:
    samples, gain = recording(2.0), np.float32(10 ** (gain_db / 20))
    samples[:, :8000] *= np.float32(1e-5)  # a lead-in at the noise of 20 bits, and a pause of digital silence
    samples[:, 16000:20000] = 0
    samples[:, 20000:24000] *= np.float32(1e-4)
    enhancer = enhancer_of(random_network(name))
    expected = gain * enhancer.enhance(samples, 16000)
    np.testing.assert_allclose(enhancer.enhance(gain * samples, 16000), expected, atol=1e-4 * np.abs(expected).max())


def test_channels_share_one_mask() -> None:
    left = recording()
    samples = np.concatenate([left, -0.5 * left])  # opposite phase: a sum of channels would nearly cancel
    enhancer = enhancer_of(random_network("grid"))
    out = enhancer.enhance(samples, 16000)
    np.testing.assert_allclose(out[1], -0.5 * out[0], atol=1e-6)
    np.testing.assert_allclose(out[0], enhancer.enhance(left, 16000)[0], atol=1e-6)


def test_silence_stays_digital_silence() -> None:
    for name in SETTINGS:
        out = enhancer_of(random_network(name)).enhance(np.zeros((2, 5000), np.float32), 16000)
        assert not out.any()


@pytest.mark.parametrize("limit_db", [0.0, 6.0, 20.0])
def test_attenuation_is_limited(limit_db: float) -> None:
    samples = recording(rate_hz=48000)
    out = enhancer_of(PassNone()).enhance(samples, 48000, max_attenuation_db=limit_db)
    np.testing.assert_allclose(out, samples * 10 ** (-limit_db / 20), atol=1e-6)


@pytest.mark.parametrize(("mix", "limit_db"), [(0.0, None), (0.7, None), (0.7, 10.0), (1.0, 10.0)])
@pytest.mark.parametrize("rate_hz", [16000, 48000])
def test_mix_adds_the_input_to_what_was_enhanced(mix: float, limit_db: float | None, rate_hz: int) -> None:
    samples, enhancer = recording(rate_hz=rate_hz, channels=2), enhancer_of(random_network("grid"))
    expected = mix * enhancer.enhance(samples, rate_hz, limit_db) + (1 - mix) * samples
    np.testing.assert_allclose(enhancer.enhance(samples, rate_hz, limit_db, mix), expected, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [22050, 48000])
def test_what_is_above_the_network_does_not_depend_on_pieces_level_and_channels(rate_hz: int) -> None:
    samples, enhancer = recording(1.5, rate_hz), enhancer_of(random_network("grid"))
    whole = enhancer.enhance(samples, rate_hz)
    stream = enhancer.stream(rate_hz, 1)
    for _ in range(2):  # the second recording begins as the first did
        pieces = [stream.feed(samples[:, i : i + 999]) for i in range(0, samples.shape[1], 999)]
        np.testing.assert_allclose(np.concatenate([*pieces, stream.flush()], -1), whole, atol=1e-6)
    np.testing.assert_allclose(enhancer.enhance(0.01 * samples, rate_hz), 0.01 * whole, atol=1e-5)
    both = enhancer.enhance(np.concatenate([samples, -samples]), rate_hz)
    np.testing.assert_allclose(both, np.concatenate([whole, -whole]), atol=1e-6)


@pytest.mark.parametrize("hop_s", [0.0005, 0.001])
def test_windows_so_short_that_a_band_has_no_bin_leave_nothing_undefined(hop_s: float) -> None:
    front_end, samples = FrontEnd(hop_s=hop_s), recording(0.3, 48000)
    network = build("dnn", DnnSettings(bins=front_end.bins, context=3, hidden=(16,)))
    out = Enhancer(TorchBackend(network), front_end).enhance(samples, 48000)
    assert np.isfinite(out).all() and abs(out).max() > 0.01
    passed = Enhancer(TorchBackend(PassAll()), front_end).enhance(samples, 48000)
    np.testing.assert_allclose(passed, samples, atol=1e-6)


def test_what_is_above_the_network_follows_what_it_says_and_what_is_there() -> None:
    class HalfTheTime(MaskNetwork):
        """Keeps every frame of the first second, and no more than a fiftieth of those behind it."""

        def masks(self, evidence, state):
            start = state or 0
            frames = start + torch.arange(evidence.shape[-1])
            speech = torch.where(frames * 0.016 < 1, 0.99, 0.02).expand_as(evidence)
            return torch.stack([speech, 1 - speech], 1), start + evidence.shape[-1]

    samples, rate_hz = recording(2.0, 48000), 48000
    out = enhancer_of(HalfTheTime()).enhance(samples, rate_hz)
    for start_s, low, high in ((0.2, -9, 0), (1.2, -90, -26)):
        part = slice(round(start_s * rate_hz), round((start_s + 0.7) * rate_hz))
        power = [abs(np.fft.rfft(x[0, part] * np.hanning(x[0, part].size))) ** 2 for x in (out, samples)]
        above = np.fft.rfftfreq(samples[0, part].size, 1 / rate_hz) > 9000
        assert low < 10 * np.log10(power[0][above].sum() / power[1][above].sum()) < high


def test_long_recordings_are_processed_in_blocks_with_the_same_result() -> None:
    enhancer, samples = enhancer_of(random_network("dnn")), recording(9.5)
    blocks = [samples[:, i : i + 1000] for i in range(0, samples.shape[1], 1000)]
    streamed = np.concatenate(list(enhancer.enhance_blocks(blocks, 16000, 1)), -1)
    np.testing.assert_allclose(enhancer.enhance(samples, 16000), streamed, atol=1e-6)


@pytest.mark.parametrize(
    "rate_hz,tolerance",  # of the highest peak; windows of whole samples move a tone by up to 0.2 bins at 2.9 kHz
    [(8000, 0.01), (11025, 0.25), (22050, 0.06), (44100, 0.06), (48000, 0.01)],
)
def test_network_hears_the_same_at_every_rate(rate_hz: int, tolerance: float) -> None:
    inputs: list[torch.Tensor] = []

    class Listener(PassAll):
        def forward(self, magnitude, state=None):
            inputs.append(magnitude)
            return super().forward(magnitude, state)

    for rate in (16000, rate_hz):
        time_s = np.arange(rate) / rate
        tones = sum(np.sin(2 * np.pi * f * time_s + f) for f in (300, 1100, 2900))[None].astype(np.float32)
        enhancer_of(Listener()).enhance(0.2 * tones, rate)
    steady = [magnitude[0, :, 20:40].mean(-1) for magnitude in inputs if magnitude.shape[-1] > 40]
    assert len(steady) == 2 and steady[0].shape == steady[1].shape == (257,)
    torch.testing.assert_close(steady[1], steady[0], rtol=0, atol=tolerance * float(steady[0].max()))


# Channels on their own


def test_separate_channels_are_enhanced_as_if_each_were_alone(voice, hiss):
    enhancer = zoo.load_enhancer("tiny")
    samples = np.stack([voice() + hiss(), hiss(seed=1), 0 * hiss()]).astype(np.float32)
    alone = np.concatenate([enhancer.enhance(samples[k : k + 1], 16000) for k in range(3)])
    together = enhancer.enhance(samples, 16000)
    assert np.abs(together - alone).max() > 1e-3
    np.testing.assert_allclose(enhancer.enhance(samples, 16000, separate=True), alone, atol=1e-6)
    stream = enhancer.stream(16000, 3, separate=True)
    assert stream.channels == 3 and stream.latency_samples == enhancer.stream(16000, 1).latency_samples
    for _ in range(2):
        pieces = [stream.feed(samples[:, k : k + 1111]) for k in range(0, 9999, 1111)]
        pieces.append(stream.flush(samples[:, 9999:]))
        np.testing.assert_allclose(np.concatenate(pieces, -1), alone, atol=1e-6)
    stream.feed(samples[:, :5000])
    stream.reset()
    assert stream.flush().shape == (3, 0)


def test_separate_channels_take_nothing_of_a_chunk_that_is_refused(voice):
    stream = zoo.load_enhancer("tiny").stream(16000, 2, separate=True)
    good = np.stack([voice(), voice()])
    bad = good.copy()
    bad[1, 100] = np.nan
    with pytest.raises(AudioError, match="not finite"):
        stream.feed(bad)
    with pytest.raises(AudioError):
        stream.feed(good[:1])
    assert stream.flush(good).shape == good.shape
