"""TensorBoard log of a run: scores over steps, and the network's output for three dev recordings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.pages.render import RANGE_DB, coloured
from deepnmf_cli.signal.spectrogram import spectrogram_db
from deepnmf_cli.training.dev import Pair

SHOWN = 3
"""Number of dev recordings that are logged."""

LONGEST_S = 10.0
"""Longest part of each recording, in seconds, that is written at every score."""


class Board:
    """Event files in a folder, to which every dev score appends; a log needs no atomic writing."""

    def __init__(self, folder: Path, rate_hz: int, step: int = 0) -> None:
        """Start, or continue from `step`: what an earlier process wrote for later steps is no longer shown."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self._rate_hz, self._begun = rate_hz, False

    def add(self, row: Mapping[str, float], dev: Sequence[Pair], enhance: Callable[[Samples], Samples]) -> None:
        """Append the numbers in a row of the history, and the output of `enhance` for three dev recordings.

        The recordings are the same ones each time; the first call also writes their clean and noisy versions.
        """
        step = int(row["step"])
        for name, value in row.items():
            if name not in ("step", "seconds") and value is not None:
                self._writer.add_scalar(name, value, step)
        for place in sorted({round(place) for place in np.linspace(0, len(dev) - 1, SHOWN)}):
            clean, noisy = dev[place]
            signals = {"enhanced": enhance(noisy)}
            if not self._begun:
                signals |= {"clean": clean, "noisy": noisy}
            loudest = float(spectrogram_db(noisy, self._rate_hz).max())
            for name, samples in signals.items():
                cut = samples[: round(LONGEST_S * self._rate_hz)]
                image = coloured(spectrogram_db(cut, self._rate_hz), loudest - RANGE_DB, loudest)
                self._writer.add_image(f"dev {place + 1}/{name}", image, step, dataformats="HWC")
                self._writer.add_audio(f"dev {place + 1}/{name}", cut[None].clip(-1, 1), step, self._rate_hz)
        self._begun = True
        self._writer.flush()
