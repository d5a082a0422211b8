"""Atoms for a noise that a network has not been trained on."""

import numpy as np
import pytest
import torch

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import AudioError, UsageError
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.networks import noise_atoms as noise_atoms_module
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.noise_atoms import ATOMS, noise_atoms, with_noise
from deepnmf_cli.scoring.sdr import si_sdr
from deepnmf_cli.signal.stft import FrontEnd

RATE_HZ = 16000
BINS, CONTEXT = 257, 3
NMF = ("deep-nmf", "dnmf", "sparse-nmf")


def network(name, **settings):
    torch.manual_seed(0)
    if name in NMF:
        settings = {"context": CONTEXT, "atoms": 6, "iterations": 5, **settings}
    return build(name, NETWORKS[name][1](**settings)).eval()


def harmonic(pitch_hz, seconds, seed=0):
    """A buzz (1, N): a steady harmonic sound with a little noise."""
    draw = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * k * pitch_hz * time_s + draw.uniform(0, 6)) for k in range(1, 7500 // pitch_hz))
    return (0.02 * tones + 0.001 * draw.standard_normal(len(time_s)))[None].astype(np.float32)


def magnitudes(samples):
    return Enhancer(TorchBackend(network("sparse-nmf")), FrontEnd())._heard(samples, RATE_HZ)


@pytest.mark.parametrize("name", NMF)
def test_every_layer_gets_the_atoms_on_its_noise_side(name):
    plain = network(name)
    atoms = noise_atoms(plain, torch.from_numpy(magnitudes(harmonic(230, 1.0))))
    wider = plain.with_noise_atoms(atoms)
    assert atoms.shape == (CONTEXT * BINS, ATOMS)
    torch.testing.assert_close(atoms.norm(dim=0), torch.ones(ATOMS))
    for key, value in plain.weights().items():
        assert torch.equal(wider.weights()[key][:, :12], value)
        assert torch.equal(wider.weights()[key][:, 12:], atoms[-len(value) :])
    assert wider.macs_per_frame() > plain.macs_per_frame()
    assert plain.weights()["dictionary_0"].shape[1] == 12  # the network that was given is as it was


def test_a_pop_over_near_silence_gives_the_atoms_that_it_can():
    """Few frames are audible beside it."""
    draw = torch.Generator().manual_seed(0)
    magnitude = 1e-5 * torch.rand(BINS, 60, generator=draw)
    magnitude[:, 5:9] = torch.rand(BINS, 4, generator=draw)
    atoms = noise_atoms(network("sparse-nmf", context=1), magnitude)
    assert 1 <= atoms.shape[1] < ATOMS and atoms.isfinite().all()


def test_atoms_that_explain_nothing_change_nothing():
    """Atoms in bins where there is no sound get no activation, whatever the network."""
    plain, silent = network("deep-nmf"), torch.zeros(CONTEXT * BINS, 2)
    silent[BINS - 1 :: BINS] = 1 / CONTEXT**0.5
    evidence = torch.rand(1, BINS, 20)
    evidence[:, -1] = 0
    torch.testing.assert_close(
        plain.with_noise_atoms(silent)(evidence)[0][:, :, :-1], plain(evidence)[0][:, :, :-1], atol=0.05, rtol=0
    )


def test_speech_atoms_stay_and_take_part():
    """What the speech atoms explain already is not learned again."""
    plain = network("sparse-nmf", atoms=6)
    sound = plain.analysis[-BINS:, :1] * torch.ones(1, 60)
    noise = torch.zeros(BINS, 60)
    noise[100] = 1.0
    learned = noise_atoms(plain, sound + noise)
    present = learned[-BINS:].sum(1)
    assert present[100] > 20 * present[99]


def test_every_frame_that_has_its_whole_context_is_learned_from(monkeypatch):
    learned = []
    monkeypatch.setattr(noise_atoms_module, "learn_dictionary", lambda block, *_, **__: learned.append(block(0)))
    noise_atoms(network("sparse-nmf"), torch.rand(BINS, 20) + 0.1)
    assert learned[0].shape == (CONTEXT * BINS, 20 - (CONTEXT - 1)) and (learned[0] > 0).all()


@pytest.mark.parametrize("name", ["dnn", "grid"])
def test_networks_without_atoms_are_refused(name):
    with pytest.raises(UsageError, match=f"found the model {name}, which.*deep-nmf, dnmf or sparse-nmf.*--model deep"):
        with_noise(network(name), torch.rand(BINS, 50))


@pytest.mark.parametrize("magnitude", [torch.rand(BINS, 9), torch.zeros(BINS, 100)])
def test_a_stretch_too_short_or_silent_is_refused(magnitude):
    with pytest.raises(AudioError, match="noise profile: found [09] frames of it; expected at least 10 frames"):
        with_noise(network("deep-nmf"), magnitude)


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (16000, 2), (44100, 1)])
def test_a_profile_of_any_rate_and_channels(rate_hz, channels):
    enhancer = Enhancer(TorchBackend(network("deep-nmf")), FrontEnd())
    noise = np.random.default_rng(0).standard_normal((channels, rate_hz)).astype(np.float32)
    inputs = enhancer._heard(noise, rate_hz)
    assert inputs.shape[0] == BINS and 55 < inputs.shape[1] < 63
    adapted = enhancer.with_noise(noise, rate_hz)
    assert adapted.enhance(noise, rate_hz).shape == noise.shape


def test_an_exported_model_is_refused():
    class Exported:
        """A backend that cannot learn."""

    with pytest.raises(UsageError, match="--backend torch"):
        Enhancer(Exported(), FrontEnd()).with_noise(np.zeros((1, 16000), np.float32), RATE_HZ)


def test_a_profile_removes_a_noise_that_the_model_does_not_know(voice):
    """An untrained dictionary of exemplars: speech-like atoms, and atoms of white noise where the noise is a buzz."""
    speech, buzz = 0.3 * voice(4.0)[None], harmonic(330, 5.0)
    plain = network("sparse-nmf", atoms=30, iterations=25, context=1)
    draw = torch.Generator().manual_seed(1)
    inputs = torch.from_numpy(magnitudes(0.3 * voice(3.0)[None] + 1e-4))
    chosen = inputs[:, torch.randperm(inputs.shape[1], generator=draw)[:30]] + 1e-4 * torch.rand(
        BINS, 30, generator=draw
    )
    white = torch.rand(BINS, 30, generator=draw)
    dictionary = torch.cat([chosen / chosen.norm(dim=0), white / white.norm(dim=0)], 1)
    plain.load_weights({"dictionary_0": dictionary})
    enhancer = Enhancer(TorchBackend(plain), FrontEnd())
    noisy = speech + buzz[:, : speech.shape[1]]
    adapted = enhancer.with_noise(buzz[:, speech.shape[1] :], RATE_HZ)
    before, without, given = (
        si_sdr(speech[0], out[0]) for out in (noisy, enhancer.enhance(noisy, RATE_HZ), adapted.enhance(noisy, RATE_HZ))
    )
    assert given > without + 3 and given > before + 5
