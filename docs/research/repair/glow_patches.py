"""A Glow of patches of the spectrogram as the proximal map of gap filling, beside the model that ships.

    python docs/research/repair/glow_patches.py train CORPUS OUT [--steps 1500] [--seed 0]
    python docs/research/repair/glow_patches.py compare CORPUS OUT [--files 16] [--seed 0]

`train` fits the flow to clean speech of CORPUS/train and writes OUT/glow.safetensors; `compare` chooses the shrinkage
on speakers of CORPUS/train that the flow has not seen, and writes OUT/glow.json: SNR in the gaps of figures.py, on dev.

A patch holds log |c| of 16 frames and 16 bins of the frame of the shipped model, each bin with the mean and the
deviation of training removed. The proximal map is z = G(log |c|), z <- z / (1 + lambda q),
c <- c exp(G^-1(z) - log |c|), with q the share of the frame that is missing: magnitudes change in frames that touch
the gap, phases stay.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import figures
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepnmf_cli.inference.glow import Glow
from deepnmf_cli.repair import model
from deepnmf_cli.repair.projection import Observation, unit_gain
from deepnmf_cli.signal import audio
from deepnmf_cli.signal.formats import scan
from deepnmf_cli.signal.tight_frame import TightFrame
from deepnmf_cli.training.repair import gap_at

RATE_HZ, FRAME, SIDE, FLOOR = 16000, TightFrame(128), 16, 1e-3
"""FLOOR is added to magnitudes of speech of unit power: -60 dB."""
BINS = FRAME.bins // SIDE * SIDE
"""The highest bin keeps its magnitude."""
GLOW = Glow(channels=1, levels=2, steps=4, width=32)
BATCH, RATE = 64, 1e-3
CLIPS, HELD, CLIP_S = 200, 12, 5
ITERATIONS = 5
SHRINKAGES = (0.02, 0.1, 0.5, 2.0)


def speech(corpus: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Clips of unit power: to learn from, and of other speakers (the last folders)."""
    paths = scan(corpus / "train" / "speech").audio
    chosen = paths[:: max(1, len(paths) // CLIPS)]
    folders = sorted({path.parent for path in chosen})
    held = set(folders[-max(1, len(folders) // 10) :])
    learn, other = [], []
    for path in chosen:
        samples = audio.read(path, "float64")[0][0][: CLIP_S * RATE_HZ]
        if len(samples) > RATE_HZ and samples.any():
            (other if path.parent in held else learn).append(samples / np.sqrt((samples**2).mean()))
    return learn, other[:HELD]


def log_magnitude(coefficients: np.ndarray) -> np.ndarray:
    return np.log(np.abs(coefficients[..., :BINS]) + FLOOR)


@dataclass(frozen=True)
class Prior:
    """The flow with the mean and the deviation (BINS,) of log magnitudes."""

    weights: dict[str, Tensor]
    mean: np.ndarray
    deviation: np.ndarray
    history: str
    """JSON: steps, nats a pixel on speakers that were held out, and seconds of CPU."""

    def shrunk(self, coefficients: np.ndarray, lost: np.ndarray, shrinkage: float, shift: int) -> np.ndarray:
        """The proximal map of coefficients (T, F), of whose frames `lost` (T,) is missing; `shift` moves the grid of
        patches by so many frames and bins.
        """
        size = log_magnitude(coefficients)
        frames, pad = len(size), -(len(size) + shift) % SIDE
        image = np.pad((size - self.mean) / self.deviation, ((shift, pad), (shift, SIDE - shift)), mode="edge")
        share = np.pad(lost, (shift, pad), mode="edge")
        rows, columns = image.shape[0] // SIDE, image.shape[1] // SIDE
        patches = image.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2).reshape(-1, 1, SIDE, SIDE)
        q = np.repeat(share.reshape(rows, 1, SIDE), columns, 1).reshape(-1, SIDE)
        with torch.no_grad():
            z, _ = GLOW.forward(torch.from_numpy(patches).float(), self.weights)
            for level, part in enumerate(z):
                weight = torch.from_numpy(q).float().unfold(1, 2 << level, 2 << level).mean(-1)
                part /= 1 + shrinkage * weight[:, None, :, None]
            found = GLOW.inverse(z, self.weights).double().numpy()
        whole = found.reshape(rows, columns, SIDE, SIDE).swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE)
        change = (whole - image)[shift : shift + frames, shift : shift + BINS] * self.deviation
        gain = np.exp(np.clip(change, -3, 3)) * (lost[:, None] > 0) + (lost[:, None] == 0)
        return coefficients * np.pad(gain, ((0, 0), (0, FRAME.bins - BINS)), constant_values=1.0)


def train(corpus: Path, out: Path, steps: int, seed: int) -> None:
    learn, other = speech(corpus)
    draw, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    seen, held = ([log_magnitude(FRAME.analysis(x)) for x in part] for part in (learn, other))
    stacked = np.concatenate(seen)
    mean, deviation = stacked.mean(0), stacked.std(0)

    def patches(images: list[np.ndarray], count: int, draw: np.random.Generator) -> Tensor:
        found = []
        for _ in range(count):
            image = images[draw.integers(len(images))]
            t, f = draw.integers(len(image) - SIDE), draw.integers(BINS - SIDE + 1)
            part = (image - mean) / deviation
            found.append(part[t : t + SIDE, f : f + SIDE])
        return torch.from_numpy(np.stack(found)[:, None]).float()

    test = patches(held, 512, np.random.default_rng(99))
    weights = GLOW.from_data(GLOW.initial(generator), patches(seen, 512, draw))
    weights = {name: torch.nn.Parameter(x) for name, x in weights.items()}
    optimizer = torch.optim.Adam(weights.values(), RATE)
    history, pixels = [], SIDE**2
    for k in range(steps + 1):
        if k % 250 == 0:
            with torch.no_grad():
                nats = float(GLOW.negative_log_likelihood(test, weights).mean()) / pixels
            history.append((k, round(nats, 4), round(time.process_time(), 1)))
            print(*history[-1], flush=True)
        for group in optimizer.param_groups:
            group["lr"] = RATE * (0.5 + 0.5 * np.cos(np.pi * k / (steps + 1)))
        loss = GLOW.negative_log_likelihood(patches(seen, BATCH, draw), weights).mean() / pixels
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: x.detach() for name, x in weights.items()}
    tensors |= {"mean": torch.from_numpy(mean), "deviation": torch.from_numpy(deviation)}
    save_file(tensors, out / "glow.safetensors", {"history": json.dumps(history), "seed": str(seed)})


def load(path: Path) -> Prior:
    tensors = load_file(path)
    mean, deviation = (tensors.pop(name).numpy() for name in ("mean", "deviation"))
    with safe_open(path, framework="pt") as file:
        return Prior(tensors, mean, deviation, file.metadata()["history"])


Shrink = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Coefficients (T, F), the share that is missing (T,) and the number of the iteration -> coefficients."""


def iterated(begin: Callable[[Observation], np.ndarray], shrink: Shrink, count: int, observed: Observation):
    """Consistent projection from what `begin` gives."""
    gain = unit_gain(observed.samples, observed.missing)
    scaled, estimate = observed.scaled(gain), gain * begin(observed)
    weights = FRAME.window**2
    lost = (FRAME.frames(observed.missing.astype(float)) * weights / weights.sum()).sum(-1)[0]
    for k in range(count):
        coefficients = shrink(FRAME.analysis(estimate)[0], lost, k)
        estimate = scaled.project(FRAME.synthesis(coefficients[None], estimate.shape[-1]))
    return observed.project(estimate / gain)


def glow_prox(prior: Prior, shrinkage: float) -> Shrink:
    return lambda c, lost, k: prior.shrunk(c, lost, shrinkage, SIDE // 2 * (k % 2))


def magnitudes_known(observed_clean: np.ndarray, gain: float) -> Shrink:
    """What no prior of magnitudes can exceed by much: those of the clean sound."""
    target = np.abs(FRAME.analysis(gain * observed_clean))[0]
    return lambda c, lost, k: np.where(lost[:, None] > 0, c / (np.abs(c) + 1e-12) * target, c)


def mean_snr(parts: list[tuple[np.ndarray, np.ndarray]], method: Callable[[Observation], np.ndarray]) -> float:
    return float(np.mean([figures.ratio_db(x[m], method(gap_at(x, m))[m]) for x, m in parts]))


def examples(clips: list[np.ndarray], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A gap of each length in each clip: samples (1, N) and what is missing."""
    draw, found = np.random.default_rng(seed), []
    for samples in clips:
        for ms in figures.GAPS_MS:
            length = ms * RATE_HZ // 1000
            for _ in range(100):
                first = int(draw.integers(figures.CONTEXT, len(samples) - figures.CONTEXT - length))
                if (samples[first : first + length] ** 2).mean() > 0.09:
                    missing = np.zeros((1, length + 2 * figures.CONTEXT), bool)
                    missing[:, figures.CONTEXT : figures.CONTEXT + length] = True
                    found.append((samples[None, first - figures.CONTEXT : first + length + figures.CONTEXT], missing))
                    break
    return found


def compare(corpus: Path, out: Path, files: int, seed: int) -> None:
    prior, shipped = load(out / "glow.safetensors"), model.load(model.shipped(model.GAPS))
    filled = partial(shipped.restore, rate_hz=RATE_HZ)
    starts = {"autoregression": figures.autoregressive, "shipped": filled}
    chosen, trials = {}, examples(speech(corpus)[1], seed)
    tried = {}
    for begin, start in starts.items():
        prox = {s: partial(iterated, start, glow_prox(prior, s), ITERATIONS) for s in SHRINKAGES}
        scores = tried[begin] = {s: round(mean_snr(trials, prox[s]), 3) for s in SHRINKAGES}
        scores[0.0] = round(mean_snr(trials, start), 3)
        best = max(SHRINKAGES, key=lambda s: scores[s])
        chosen[f"{begin}, then GLOW, lambda {best:g}"] = prox[best]
        print(begin, scores, flush=True)
    methods = {"autoregression alone": figures.autoregressive, "shipped": filled, **chosen}
    paths = scan(corpus / "dev" / "clean").audio
    paths = paths[:: max(1, len(paths) // files)][:files]
    sounds = [audio.read(path, "float64")[0][0] for path in paths]
    rows = figures.gaps(sounds, methods, seed)
    bound = examples([x / np.sqrt((x**2).mean()) for x in sounds], seed)
    known = [
        figures.ratio_db(x[m], iterated(filled, magnitudes_known(x, float(unit_gain(x, m)[0, 0])), 20, gap_at(x, m))[m])
        for x, m in bound
    ]
    before = mean_snr(bound, filled)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    results = {
        "seed": seed, "commit": commit, "files": files, "parameters": sum(x.numel() for x in prior.weights.values()),
        "training": json.loads(prior.history), "held-out speakers: SNR [dB] by lambda, 0 being the start": tried,
        "gaps: SNR [dB] by ms; cpu is seconds a gap": rows,
        "clean magnitudes, 20 iterations, all lengths: SNR [dB] before and after": [before, float(np.mean(known))],
    }  # fmt: skip
    (out / "glow.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "compare"])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "train":
        train(given.corpus, given.out, given.steps, given.seed)
    else:
        compare(given.corpus, given.out, given.files, given.seed)


if __name__ == "__main__":
    main()
