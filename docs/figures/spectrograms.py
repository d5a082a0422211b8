"""Draw a recording before and after enhancement: python docs/figures/spectrograms.py NOISY CLEAN OUTPUT.png [MODEL]"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.scoring.sdr import sdr
from deepnmf_cli.signal import audio
from deepnmf_cli.zoo import load_enhancer

LOUDEST_DB, RANGE_DB = -25, 60


def main(noisy: str, clean: str, output: str, model: str | None = None) -> None:
    (mixture, rate_hz), (reference, _) = audio.read(noisy), audio.read(clean)
    enhancer = load_enhancer(model, "cpu")
    signals = {"noisy": mixture, "enhanced": enhancer.enhance(mixture, rate_hz), "clean": reference}
    pair = enhancer.front_end.pair(rate_hz)
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    for axis, (name, samples) in zip(figure.subplots(3, 1, sharex=True), signals.items()):
        level_db = 20 * np.log10(np.abs(pair.analysis(samples[0])) + 1e-9)
        extent = (0, samples.shape[1] / rate_hz, 0, rate_hz / 2000)
        image = axis.imshow(
            level_db,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap="magma",
            vmin=LOUDEST_DB - RANGE_DB,
            vmax=LOUDEST_DB,
        )
        score = "" if name == "clean" else f", SDR {sdr(reference[0].astype(float), samples[0].astype(float)):.1f} dB"
        axis.set_title(name + score, loc="left", fontsize=10)
        axis.set_ylabel("frequency (kHz)")
    axis.set_xlabel("time (s)")
    figure.colorbar(image, ax=figure.axes, label="level (dB)", fraction=0.025)
    with atomic_path(Path(output)) as partial:
        figure.savefig(partial, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
