"""Sparse coding with atoms over Hz: one set of weights at several sampling rates."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.inference.over_frequency import interpolation
from deepnmf_cli.inspector.recording import hear
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.band_network import BandNetwork, band_centres, lower_bands
from deepnmf_cli.networks.sparse import SparseCodingNetwork, SparseCodingSettings
from deepnmf_cli.signal.bands import erb_number
from deepnmf_cli.signal.stft import FrontEnd

SHAPE = {"context": 2, "atoms": 5, "iterations": 3, "mask_power": 3.0, "blocks": 1}


def trained(**more: Any) -> SparseCodingNetwork:
    """A network with atoms over Hz, stored for 16 kHz, whose parameters have left where they begin."""
    torch.manual_seed(3)
    network = SparseCodingNetwork(SparseCodingSettings(**SHAPE, over_hz=True, **more))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def plain(network: SparseCodingNetwork) -> SparseCodingNetwork:
    """The same weights without that setting."""
    other = SparseCodingNetwork(dataclasses.replace(network.settings, over_hz=False))
    other.load_weights(network.weights())
    return other


def magnitudes(seed: int = 5) -> torch.Tensor:
    return torch.rand(1, 257, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("algorithm", ["ista", "fista", "group-ista", "cancellation"])
@torch.no_grad()
def test_at_the_rate_that_they_are_stored_for_atoms_are_the_plain_ones_bit_for_bit(algorithm: str) -> None:
    network = trained(algorithm=algorithm)
    expected = plain(network)(magnitudes())[0]
    assert torch.equal(network(magnitudes())[0], expected)
    network.hear(257)
    assert torch.equal(network(magnitudes())[0], expected)
    network.hear(129)
    assert (network(magnitudes())[0] - expected)[..., :129, :].abs().max() > 0.05


@torch.no_grad()
def test_at_half_the_rate_atoms_are_those_below_4_khz() -> None:
    network = trained()
    network.hear(129)
    assert network.lower is not None
    (bands, layers), top = network.lower, erb_number(np.array(4000.0))
    stored, centres = band_centres(network.settings), band_centres(bands.settings)
    assert (bands.settings.rate_hz, bands.settings.bands) == (8000, 80) and centres[-1] == top
    # The 80th stored band lies at 3964 Hz, the 80th of this rate at 4000 Hz: a fifth of their spacing away.
    assert ((centres - stored[:80]).abs() <= 0.201 * (stored[-1] - stored[-2])).all()
    for k in range(4):
        frames = network.unfolded.bank.layer(k)["dictionary"].unflatten(0, (-1, 96))
        here = layers.algorithm.here(layers.bank.layer(k))["dictionary"].unflatten(0, (-1, 80))
        assert torch.equal(here[:, :64], frames[:, :64])  # single bins, up to 2 kHz
        columns = frames.movedim(1, -1).reshape(-1, 96).numpy()
        expected = np.stack([np.interp(centres, stored, column) for column in columns])
        torch.testing.assert_close(here.movedim(1, -1).reshape(-1, 80), torch.from_numpy(expected).float())


@pytest.mark.parametrize("bins", [2, 17, 65, 66, 67, 129, 177, 256])
def test_bands_of_any_lower_rate_are_sound_and_linear_functions_are_interpolated_exactly(bins: int) -> None:
    for shape in (SparseCodingSettings(), SparseCodingSettings(single_bands=4, wide_bands=3)):
        below = lower_bands(shape, bins)
        network, centres = BandNetwork(below), band_centres(below)
        assert below.bins == bins and (centres.diff() > 0).all()
        assert torch.isfinite(network.to_bands).all()
        torch.testing.assert_close(network.to_bins.sum(1), torch.ones(bins - below.single_bands))
        torch.testing.assert_close(interpolation(band_centres(shape), centres) @ band_centres(shape), centres)


def test_bands_of_all_bins_are_the_stored_ones() -> None:
    settings = SparseCodingSettings()
    assert torch.equal(
        interpolation(band_centres(settings), band_centres(lower_bands(settings, 257))), torch.eye(96).double()
    )


@torch.no_grad()
def test_what_is_above_the_highest_frequency_is_not_looked_at() -> None:
    network = trained()
    network.hear(129)
    other = magnitudes().clone()
    other[:, 129:] = other[:, 129:].flip(1)  # as loud, so that the level is the same
    masks = network(magnitudes())[0]
    assert masks.shape == (1, 2, 257, 12)
    torch.testing.assert_close(masks[:, :, :129], network(other)[0][:, :, :129])


@torch.no_grad()
@pytest.mark.parametrize("rate_hz", [1000, 8000, 11025])
def test_recordings_of_lower_rates_are_enhanced_by_the_atoms_at_their_frequencies(rate_hz: int) -> None:
    network, front_end = trained(), FrontEnd()
    enhancer, pair = Enhancer(TorchBackend(network), front_end), front_end.pair(rate_hz)
    sound = np.random.default_rng(0).normal(0, 0.1, (1, rate_hz)).astype(np.float32)
    heard, watched = enhancer.enhance(sound, rate_hz), hear(enhancer, sound, rate_hz)
    lower = trained()
    lower.hear(pair.bins)
    assert not watched.inputs[pair.bins :].any()
    expected = lower(torch.from_numpy(watched.inputs)[None])[0][0, 0]
    np.testing.assert_array_equal(watched.mask, expected.numpy())
    np.testing.assert_array_equal(watched.speech, heard)
    other = Enhancer(TorchBackend(plain(network)), front_end)
    assert np.abs(other.enhance(sound, rate_hz) - heard).max() > 2e-3
    wide = np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32)
    np.testing.assert_array_equal(enhancer.enhance(wide, 16000), other.enhance(wide, 16000))


def test_algorithms_whose_layers_have_more_than_dictionaries_are_refused() -> None:
    for algorithm in ("lista", "alista", "hyperlista", "hyperlista-abt", "psista"):
        with pytest.raises(ValueError, match="with cancellation, fista, group-ista, ista"):
            SparseCodingSettings(algorithm=algorithm, over_hz=True)
