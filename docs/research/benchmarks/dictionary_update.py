"""Cost on unseen frames of dictionaries learned by our update and by that of TR2015-023; CPU time of both.

    python docs/research/benchmarks/dictionary_update.py CORPUS

CORPUS/train/speech and CORPUS/train/noise hold recordings at 16 kHz. Prints a row for each setting and seed.
"""

import argparse
import time
from pathlib import Path

import torch
from recordings import spectra
from torch import Tensor

from deepnmf_cli.inference import nmf
from deepnmf_cli.inference.dictionary import NEVER_ACTIVE, exemplars, learn_dictionary, unit_columns

ATOMS, BATCHES, BATCH_FRAMES, UNSEEN, STEPS, MEMORY = 100, 40, 2000, 3000, 15, 0.5
FILES, SECONDS = 150, 6
SETTINGS = [(1.0, 5.0), (1.0, 0.0), (2.0, 0.1), (0.0, 0.1), (0.5, 0.5)]


def frames(folder: Path) -> Tensor:
    """Magnitudes (F, N) of some recordings at equal level, in random order."""
    m = spectra(folder, FILES, SECONDS).abs()
    m = m[:, m.square().mean(0) > 1e-8]
    return m[:, torch.randperm(m.shape[1], generator=torch.Generator().manual_seed(0))]


def by_tr2015(blocks: list[Tensor], beta: float, mu: float, seed: int) -> Tensor:
    """Dictionary learned by w o (descending / ascending)^gamma at fixed activations, then unit norm."""
    power = 1 / nmf.exponent(beta)
    w, above, below = exemplars(blocks[0], ATOMS, torch.Generator().manual_seed(seed)), 0.0, 0.0
    w = unit_columns(w + 0.01 * unit_columns(blocks[0].mean(-1, keepdim=True)))
    for index in range(BATCHES):
        m = blocks[index % len(blocks)]
        h = nmf.infer(m, w, STEPS, beta, mu)
        v = (w @ h).clamp_min(1e-10)
        minus, plus = (m.clamp_min(1e-10) * v.pow(beta - 2)) @ h.mT, v.pow(beta - 1) @ h.mT
        above = MEMORY * above + w.pow(power) * (minus + w * (plus * w).sum(0) + NEVER_ACTIVE)
        below = MEMORY * below + plus + w * (minus * w).sum(0) + NEVER_ACTIVE
        w = unit_columns((above / below).pow(1 / power))
    return w


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    corpus = parser.parse_args().corpus
    torch.set_num_threads(1)
    print(f"{'source':8}{'beta':>5}{'mu':>5}{'seed':>5}{'TR2015':>10}{'ours':>10}{'change':>9}{'time':>6}")
    for source in ("speech", "noise"):
        m = frames(corpus / "train" / source)
        unseen, blocks = m[:, :UNSEEN], [b for b in m[:, UNSEEN:].split(BATCH_FRAMES, 1) if b.shape[1] == BATCH_FRAMES]
        for beta, mu in SETTINGS:
            for seed in (0, 1):
                costs, times = [], []
                for learn in (
                    lambda: by_tr2015(blocks, beta, mu, seed),
                    lambda: learn_dictionary(lambda i: blocks[i % len(blocks)], BATCHES, ATOMS, beta, mu, seed=seed),
                ):
                    began = time.process_time()
                    w = learn()
                    times.append(time.process_time() - began)
                    costs.append(
                        float(nmf.objective(nmf.infer(unseen, w, 100, beta, mu), unseen, w, beta, mu)) / UNSEEN
                    )
                theirs, ours = costs
                print(
                    f"{source:8}{beta:5}{mu:5}{seed:5}{theirs:10.3f}{ours:10.3f}"
                    f"{100 * (ours / theirs - 1):+8.1f}%{times[1] / times[0]:6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
