"""The bands that networks pool bins into."""

import torch

from deepnmf_cli.networks.band_network import band_matrix


def test_bands_share_out_every_bin() -> None:
    matrix = band_matrix(257, 64, 32, 16000)
    assert (matrix >= 0).all() and (matrix.sum(1) > 0).all()
    torch.testing.assert_close(matrix.sum(0), torch.ones(257))
    assert torch.equal(matrix[:64, :64], torch.eye(64))
