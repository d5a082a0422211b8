"""A spectrogram for display: levels over frequency and time, as many as a picture has points."""

import numpy as np

WINDOW_S, HOP_S = 0.032, 0.008
LOWEST_DB = -140.0
"""Level of silence: far below the rounding noise of 16 bits."""

ROWS = 256
"""Maximum number of frequencies that are shown."""


def spectrogram_db(samples: np.ndarray, rate_hz: int, columns: int = 600) -> np.ndarray:
    """Levels (F, T) in dB of samples (N,), or of their mean power over channels for (C, N), N >= 1.

    The F <= ROWS frequencies go from 0 Hz to rate_hz / 2, and the T <= `columns` times from the first sample to the
    last. With Hann windows of 32 ms, a sinusoid of amplitude 1 has 0 dB. Frequencies that share a row have the highest
    of their levels, so that thin lines stay visible.
    """
    samples = np.atleast_2d(np.asarray(samples, np.float32))
    size = max(2, round(WINDOW_S * rate_hz))
    hop = max(1, round(HOP_S * rate_hz), -(-samples.shape[1] // columns))
    padded = np.pad(samples, ((0, 0), (size // 2, size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, : samples.shape[1] : hop]
    window = np.hanning(size + 1)[:-1]
    spectra = np.fft.rfft(frames * (2 * window / window.sum()).astype(np.float32))
    power = np.square(np.abs(spectra)).mean(0).T
    if len(power) > ROWS:
        power = np.maximum.reduceat(power, np.arange(ROWS) * len(power) // ROWS)
    return np.maximum(10 * np.log10(power + 1e-30), LOWEST_DB)
