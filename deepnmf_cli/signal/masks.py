"""From the output of a network to the mask of all frequencies, in NumPy and torch alike.

Recordings with a higher sampling rate than the network's have frequencies above its reach. All that is known there is
the recording itself and the network's output at the frequencies below. In each of seven bands above the reach, the
logarithm of the mean power, l_t, is followed by two exponential averages,

    m_t = m_{t-1} + a_t (l_t - m_{t-1}),   a_t = sigmoid(A r_t + a),   m_0 = l_1,

whose rates depend on r_t, how much of six bands below the network keeps: one average follows the noise, the other the
speech. From these, spins h_t, relaxed like those of the networks, compute gains g, starting from the gain q of the
highest band below:

    h_t = h_{t-1} + sigmoid(U x_t + u) (tanh(W x_t + w) - h_{t-1}),   h_0 = tanh(W x_1 + w),
    g_t / (1 - g_t) = exp(V h_t + v) q_t / (1 - q_t),

where x_t consists of r_t, the slope of the spectrum below, and how far l_t is above its averages and above the speech
below. A network that keeps everything, or nothing, therefore does so here too. A, U, V and W were trained once, with
the masks of one network, by `docs/research/above.py`; all inputs are ratios, so that the gains do not depend on the
level of the recording, and hardly on the network.
"""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from itertools import pairwise

import numpy as np

from deepnmf_cli.signal.arrays import Array, like, namespace
from deepnmf_cli.signal.stft import StftPair

SMALLEST = 1e-30
"""Modulus below which a mask has no phase worth keeping, and power that counts as zero."""
EDGES = (1.0, 1.125, 1.28125, 1.5, 1.75, 2.0, 2.5)
"""Lower limits of the bands above, exclusive, in units of the reach; the last band extends to the end."""
LOWER_EDGES = (0.0375, 0.125, 0.3125, 0.5, 0.75, 0.9375, 1.0)
"""Limits of the six bands below, in the same units."""
SILENT = 1e-15
"""Power that is added to that of a band, as a floor."""
FARTHEST = 12.0
"""Bound on the logarithms of ratios."""


def complex_masks(masks: Array) -> Array:
    """Masks (..., 2, F, T) of speech and noise, as they are, or complex ones made of three planes (..., 3, F, T).

    The third plane is the imaginary part of the speech mask, and its negative is that of the noise mask: they still sum
    to one.
    """
    if masks.shape[-3] == 2:
        return masks
    turn = masks[..., 2:, :, :]
    return masks[..., :2, :, :] + 1j * namespace(masks).concatenate([turn, -turn], -3)


def at_least(mask: Array, floor: float) -> Array:
    """The mask, real >= 0 or complex, with its modulus raised to `floor` >= 0 where it is less."""
    if not floor:
        return mask
    size = abs(mask)
    return namespace(mask).where(size > SMALLEST, mask * (size.clip(floor, None) / size.clip(SMALLEST, None)), floor)


@cache
def weights() -> dict[str, np.ndarray]:
    """The trained weights, float32: `rate` (14, 6) for A, `spin` (H, 29) for W, `spin_rate` (H, 29) for U, `gain`
    (7, H) for V, and a bias for each, such as `rate_bias` (14,).
    """
    text = resources.files("deepnmf_cli.signal").joinpath("above.json").read_text("utf-8")
    return {key: np.array(values, np.float32) for key, values in json.loads(text)["weights"].items()}


@dataclass(frozen=True)
class AboveBands:
    """The bands of one front end and one sampling rate: means over their bins, and back."""

    pair: StftPair
    bins: int
    """Bins that the network gets; those from here on are above its reach."""

    @cached_property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Matrices (6, F) and (7, F' - F) that turn power by bin into mean power by band.

        Rows of bands without bins are zero: those of bands that this rate does not have, and with windows of 1 ms one
        below.
        """
        place = np.arange(self.pair.bins) / (self.bins - 1)
        below = np.stack([(place >= a) & (place < b) for a, b in pairwise(LOWER_EDGES)])[:, : self.bins]
        above = np.stack([(place > a) & (place <= b) for a, b in pairwise((*EDGES, np.inf))])[:, self.bins :]
        return below / below.sum(1, keepdims=True).clip(1), above / above.sum(1, keepdims=True).clip(1)

    @cached_property
    def _single(self) -> tuple[np.ndarray, np.ndarray]:
        """The same in single precision, converted once, which pays as frames come one by one."""
        below, above = self.means
        return below.astype(np.float32), above.astype(np.float32)

    def below(self, power: Array) -> Array:
        """Mean power (6, T) of the bands below, from the power (F, T) of the lowest F bins."""
        return like(self._single[0], power) @ power

    def above(self, power: Array) -> Array:
        """Mean power (7, T) of the bands above, from the power (F' - F, T) of their bins."""
        return like(self._single[1], power) @ power

    @cached_property
    def ends_below(self) -> np.ndarray:
        """First bin of each band below, and the end of the last one: (7,)."""
        return np.searchsorted(np.arange(self.bins) / (self.bins - 1), LOWER_EDGES)

    @cached_property
    def present(self) -> np.ndarray:
        """1 for bands above that this rate has, 0 for the others: (7, 1) float32."""
        return (self.means[1].sum(1, keepdims=True) > 0).astype(np.float32)

    @cached_property
    def band_of_bin(self) -> np.ndarray:
        """The band of every bin above (F' - F,)."""
        return self.means[1].argmax(0)


AboveState = tuple[np.ndarray, np.ndarray]
"""State that is passed from block to block: averages (14,) and spins (H,)."""


def above_gains(
    below: np.ndarray, kept: np.ndarray, above: np.ndarray, present: np.ndarray, state: AboveState | None
) -> tuple[np.ndarray, AboveState]:
    """Return gains (7, T) in [0, 1], and the state for the next block.

    The mean powers are float32: `below` (6, T) of the bands below, `kept` (6, T) of what the mask leaves of these,
    `above` (7, T) of the bands above. `present` (7, 1) says which of the bands above the rate has. `state` is that
    after the previous block, None at the beginning. T >= 1.
    """
    highest = np.sqrt((kept[-1] + np.float32(SMALLEST)) / (below[-1] + np.float32(SMALLEST))).clip(None, 1)
    below, kept, above = (np.log(power + np.float32(SILENT)) for power in (below, kept, above))
    share = (kept - below).clip(-FARTHEST, 0)
    levels = np.concatenate([above, above])
    averages, spins = state or (levels[:, 0], None)
    path = _relaxed(levels, _sigmoid(_affine("rate", share)), averages)
    slopes = np.stack([kept[4] - kept[1], below[4] - below[1]])
    over = np.concatenate([above - kept[4], levels - path]) * np.concatenate([present] * 3)
    inputs = np.concatenate([share, np.concatenate([slopes, over]).clip(-FARTHEST, FARTHEST)])
    aims = np.tanh(_affine("spin", inputs))
    spins = _relaxed(aims, _sigmoid(_affine("spin_rate", inputs)), aims[:, 0] if spins is None else spins)
    odds = np.exp(_affine("gain", spins)) * highest
    return odds / (1 - highest + odds), (path[:, -1].copy(), spins[:, -1].copy())


def _affine(name: str, inputs: np.ndarray) -> np.ndarray:
    return weights()[name] @ inputs + weights()[f"{name}_bias"][:, None]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _relaxed(aims: np.ndarray, rates: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The path (n, T) from `last` (n,) towards `aims` (n, T), by the share `rates` (n, T) of the way in each step."""
    path, aims, rates = np.empty_like(aims.T), aims.T, rates.T
    for t in range(len(path)):
        path[t] = last = last + rates[t] * (aims[t] - last)
    return path.T
