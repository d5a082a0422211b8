"""The bands that networks pool bins into."""

import numpy as np
import pytest

from deepnmf_cli.signal.bands import band_matrix


@pytest.mark.parametrize(
    "shape", [(513, 56, 24, 16000), (257, 64, 32, 16000), (129, 8, 2, 8000), (385, 24, 12, 44100), (257, 64, 1, 16000)]
)
def test_bands_share_out_every_bin(shape) -> None:
    single, matrix = shape[1], band_matrix(*shape)
    assert (matrix >= 0).all() and (matrix.sum(1) > 0).all()
    np.testing.assert_allclose(matrix.sum(0), 1, rtol=1e-6)
    assert np.array_equal(matrix[:single, :single], np.eye(single))


def test_two_wide_bands_share_what_lies_between_the_first_bin_and_half_the_rate() -> None:
    rate_hz, bins = 16000, 17
    position = 21.4 * np.log10(1 + 0.00437 * np.arange(3, bins) * rate_hz / 2 / (bins - 1))
    upper = (position - position[0]) / (position[-1] - position[0])
    matrix = band_matrix(bins, 3, 2, rate_hz)
    np.testing.assert_allclose(matrix[3:, 3:], [1 - upper, upper], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(matrix[:3], np.eye(3, bins))
    assert not matrix[3:, :3].any()
