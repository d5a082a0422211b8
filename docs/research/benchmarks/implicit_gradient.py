"""Gradients of tied sparse NMF, through its iterations and at the point where they settle: error, memory, CPU time.

    python docs/research/benchmarks/implicit_gradient.py CORPUS

CORPUS/train/speech and CORPUS/train/noise hold recordings at 16 kHz. Dictionaries of 100 atoms per source are learned
from them; the gradient is that of the squared error of the speech estimate in mixtures at equal level.
"""

import argparse
import time
from pathlib import Path

import torch
from recordings import spectra
from torch import Tensor

from deepnmf_cli.inference import nmf, wiener
from deepnmf_cli.inference.dictionary import learn_dictionary
from deepnmf_cli.inference.nmf import DICTIONARY, SparseNmf
from deepnmf_cli.unfold.implicit import settled

ATOMS, MU, FILES, SECONDS = 100, 5.0, 60, 4
BATCHES, BATCH_FRAMES, STEPS = 20, 1000, 15
COMPARED, TIMED = 48, 496
"""Frames whose gradients are compared, and frames of a training step."""
AT_REST, NEARLY = 3000, 1000
ITERATIONS = (25, 50, 100, 200, 400)
ALGORITHM = SparseNmf(257, (ATOMS, ATOMS), 1.0, MU)


def learned(m: Tensor) -> Tensor:
    """A dictionary (F, R) of one source."""
    draw = torch.Generator().manual_seed(0)
    blocks = [m[:, torch.randperm(m.shape[1], generator=draw)[:BATCH_FRAMES]] for _ in range(BATCHES)]
    return learn_dictionary(lambda index: blocks[index], BATCHES, ATOMS, 1.0, MU, activation_steps=STEPS)


class Comparison:
    """Gradients by the logarithm of one dictionary, for some frames."""

    def __init__(self, w: Tensor, mixture: Tensor, speech: Tensor) -> None:
        self.w, self.mixture, self.speech = w, mixture, speech

    def gradient(self, count: int, implicit: bool, **how: float) -> tuple[Tensor, float, float]:
        """Return the gradient after `count` iterations, MiB recorded for it, and CPU seconds; `how` is of `settled`."""
        w, sizes, began = self.w.clone().requires_grad_(), [], time.process_time()

        def pack(x: Tensor) -> Tensor:
            sizes.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            if implicit:
                h = nmf.infer(self.mixture, self.w, count - 1, 1.0, MU)
                h = settled(ALGORITHM, self.mixture, h, {DICTIONARY: w}, **how)
            else:
                h = nmf.start(self.mixture, w)
                for _ in range(count):
                    h = nmf.step(h, self.mixture, w, 1.0, MU)
            masks = wiener.masks(nmf.readout(h, w, ALGORITHM.atoms))
            error = (masks[0] * self.mixture - self.speech).square().sum()
        slope = torch.autograd.grad(error, w)[0] * self.w
        return slope.double(), sum(sizes) / 2**20, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    corpus = parser.parse_args().corpus
    torch.set_num_threads(1)
    speech, noise = (spectra(corpus / "train" / source, FILES, SECONDS) for source in ("speech", "noise"))
    w = torch.cat([learned(x.abs()) for x in (speech, noise)], 1)
    count = min(speech.shape[1], noise.shape[1])
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(1))[:TIMED]
    mixture, target = (speech[:, :count] + noise_at(noise, count))[:, chosen].abs(), speech[:, chosen].abs()

    exact = Comparison(w.double(), mixture[:, :COMPARED].double(), target[:, :COMPARED].double())
    wanted, _, _ = exact.gradient(AT_REST, True, tolerance=1e-9, iterations=400)
    nearly, _, _ = exact.gradient(NEARLY, True, tolerance=1e-9, iterations=400)
    print(f"relative difference after {NEARLY} and {AT_REST} iterations: {apart(nearly, wanted)[1]:.3f}\n")
    print("cosine with the gradient at rest, relative error")
    some = Comparison(w, mixture[:, :COMPARED], target[:, :COMPARED])
    for iterations in ITERATIONS:
        cells = ["{:.2f}, {:.2f}".format(*apart(some.gradient(iterations, way)[0], wanted)) for way in (False, True)]
        print(f"| {iterations} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nMiB and CPU seconds of a gradient of {TIMED} frames")
    every = Comparison(w, mixture, target)
    for iterations in ITERATIONS[::2]:
        cells = ["{:,.0f} MiB, {:.1f} s".format(*every.gradient(iterations, way)[1:]) for way in (False, True)]
        print(f"| {iterations} | " + " | ".join(cells) + " |", flush=True)


def noise_at(noise: Tensor, count: int) -> Tensor:
    """Frames of noise in an order of their own, as many as there are of speech."""
    return noise[:, torch.randperm(noise.shape[1], generator=torch.Generator().manual_seed(2))[:count]]


def apart(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """Cosine, and the norm of the difference over that of what is wanted."""
    cosine = (found * wanted).sum() / (found.norm() * wanted.norm())
    return float(cosine), float((found - wanted).norm() / wanted.norm())


if __name__ == "__main__":
    main()
