"""The bands that networks pool bins into."""

import torch

from deepnmf_cli.networks.band_network import band_matrix


def test_bands_share_out_every_bin() -> None:
    matrix = band_matrix(257, 64, 32, 16000)
    assert (matrix >= 0).all() and (matrix.sum(1) > 0).all()
    torch.testing.assert_close(matrix.sum(0), torch.ones(257))
    assert torch.equal(matrix[:64, :64], torch.eye(64))


def test_two_wide_bands_share_what_lies_between_the_first_bin_and_half_the_rate() -> None:
    rate_hz, bins = 16000, 17
    position = 21.4 * torch.log10(1 + 0.00437 * torch.arange(3, bins, dtype=torch.float64) * rate_hz / 2 / (bins - 1))
    upper = (position - position[0]) / (position[-1] - position[0])
    matrix = band_matrix(bins, 3, 2, rate_hz)
    torch.testing.assert_close(matrix[3:, 3:], torch.stack([1 - upper, upper]).float())
    torch.testing.assert_close(matrix[:3], torch.eye(3, bins))
    assert not matrix[3:, :3].any()
