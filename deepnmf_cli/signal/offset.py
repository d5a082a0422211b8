"""Constant offset (DC): inaudible, yet the loudest component in the recordings of some sound cards.

With an offset in its input, a network takes all else for quiet, and masks that vary would turn it into noise. So the
offset is tracked, removed before the analysis, and restored with the smallest gain that any frequency gets, in the long
run: the harmonic mean over frames. If nothing is attenuated, all of it is restored, and the signal is unchanged. The
gain of the lowest frequency itself means nothing: there is no speech in training from which a network could learn it.
"""

import numpy as np

TIME_CONSTANT_HOPS = 250
"""Time constant of the means: 4 s at hops of 16 ms, like that of the level."""


SMALLEST_GAIN = 1e-6
"""Masks below this count as this much, so that a single one of zero does not decide the mean."""


class RunningMean:
    """Exponentially forgetting mean of a sequence, one value per hop, exact from the first value on."""

    def __init__(self, hop_samples: int) -> None:
        self._rise = np.arange(1, hop_samples + 1) / hop_samples
        self._sum, self._weight = 0.0, 0.0
        self._last: np.ndarray | None = None

    def follow(self, values: np.ndarray, restart: np.ndarray | None = None) -> np.ndarray:
        """Return the mean after each of `values` (..., T), linear between hops: (..., T * hop_samples).

        Where `restart` (T,) is true, all past values are forgotten, and the mean is zero.
        """
        keep, *channels, count = 1 - 1 / TIME_CONSTANT_HOPS, *values.shape
        means = np.zeros((*channels, count + 1, 1))  # the mean before the first value comes first
        for t in range(count):
            if restart is not None and restart[t]:
                self._sum, self._weight = 0.0, 0.0
                continue
            self._sum, self._weight = keep * self._sum + values[..., t], keep * self._weight + 1
            means[..., t + 1, 0] = self._sum / self._weight
        means[..., 0, :] = means[..., 1, :] if self._last is None else self._last
        self._last = means[..., -1, :].copy()
        before, after = means[..., :-1, :], means[..., 1:, :]
        return (before + (after - before) * self._rise).reshape(*channels, -1)


class Offset:
    """The offset of a recording of C channels, hop by hop."""

    def __init__(self, channels: int, hop_samples: int) -> None:
        self._hop = hop_samples
        self._offset, self._reciprocal = RunningMean(hop_samples), RunningMean(hop_samples)  # the second of 1 / gain
        self._waiting = np.zeros((channels, hop_samples))

    def remove(self, samples: np.ndarray) -> np.ndarray:
        """Return samples (C, T * hop) without their offset. A hop of zeros proves that there is none."""
        hops = samples.reshape(len(samples), -1, self._hop)
        # `mean` and `any` do the same in twice the time, which counts where hops come one by one.
        means, sounding = np.add.reduce(hops, -1, np.float64) / self._hop, np.logical_or.reduce(hops, (0, -1))
        offset = self._offset.follow(means, restart=~sounding)
        self._waiting = np.concatenate([self._waiting, offset], -1)
        return (samples - offset).astype(np.float32)

    def restore(self, samples: np.ndarray, mask: np.ndarray, mix: float = 1.0) -> np.ndarray:
        """Return samples (C, T * hop), one hop later than in `remove`, with their offset restored.

        The offset is scaled to what the frames' smallest `mask` (T,) leaves of it in the long run; of the input's own
        offset, a share of 1 - `mix` stays as it is.
        """
        size = samples.shape[-1]
        offset, self._waiting = self._waiting[:, :size], self._waiting[:, size:]
        gain = mix / self._reciprocal.follow(1 / mask.clip(SMALLEST_GAIN, None)) + (1 - mix)
        return (samples + gain * offset).astype(np.float32)
