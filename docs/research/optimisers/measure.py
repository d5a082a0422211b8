"""What batches say about entries of dictionaries, how far entries went, and which mixtures gained.

    python docs/research/optimisers/measure.py CORPUS RUNS [RUN ...]

For the network where training starts (recipes/base.toml, seed 1) and 16 batches, prints for every trained dictionary
what index.md reports: sizes of the gradient by log W and of log N/P, and how many batches an entry's steps average.
Then for every complete run of the plan with seed 1 the mean change of log W, of all entries and of the smallest and
the largest quarter. For each RUN that is named, such as adam-seed1-lr0.1, the error (37) of the dev mixtures by their
SNR: its mean, on which training works, and the mean of its logarithm, which is nearer to a mean in dB. RUNS is the
folder of experiment.py.
"""

import csv
import math
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from deepnmf_cli import checkpoint, zoo
from deepnmf_cli.experiment import Recordings, digest, initial_network, open_corpus
from deepnmf_cli.recipe import Recipe, read_recipe
from deepnmf_cli.signal.audio import read
from deepnmf_cli.training.minibatch import Batch, FrameStore, changed
from deepnmf_cli.training.multiplicative import MultiplicativeDescent, _log_quotient
from deepnmf_cli.training.objectives import Truth, objective

BATCHES = 16
ADAM_EPSILON = 1e-8


def main(corpus: Path, runs: Path, *named: Path) -> None:
    torch.set_num_threads(1)
    for run in named:
        dev_errors(corpus, runs / run)
    if named:
        return
    batches(corpus, runs / "cache")
    print("\n| run | mean change of log W | of the smallest quarter | of the largest |\n|---|---|---|---|")
    for file in sorted(runs.glob("*-seed1-lr*/best.safetensors")):
        cells = [f"{x:.2f}" for x in moved(checkpoint.load(file)[0])]
        print(f"| {file.parent.name} | " + " | ".join(cells) + " |")


def moved(weights: dict[str, Tensor]) -> list[float]:
    """Mean |log W - log W0| over the trained dictionaries, W0 being the one of the layers that are not trained."""
    start = weights["dictionary_0"]
    change = torch.stack([(weights[f"dictionary_{slot}"] / start).log().abs() for slot in range(1, 5)]).mean(0)
    low, high = start.quantile(0.25), start.quantile(0.75)
    return [float(x.mean()) for x in (change, change[start <= low], change[start >= high])]


@torch.no_grad()
def dev_errors(corpus: Path, folder: Path) -> None:
    """Print a row of errors of one model, all mixtures and by SNR."""
    network, file = zoo.load(folder)
    recipe, by_snr = Recipe.of_file(file), defaultdict(list)
    with open(corpus / "dev/mixtures.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    pair = recipe.front_end.pair(recipe.front_end.rate_hz)
    for row in rows:
        clean, noisy = (
            torch.from_numpy(read(corpus / "dev" / kind / f"{row['name']}.flac")[0]) for kind in ("clean", "noisy")
        )
        spectra = pair.analysis(torch.stack([clean, noisy - clean], 1))
        masks = Batch(clean, spectra, pair.window_hops).masks(network.eval())
        error = objective(recipe.objective, masks, Truth(spectra), recipe.front_end)
        by_snr[float(row["snr_db"])].append(float(error))
    cells = []
    for errors in (
        [x for _, values in sorted(by_snr.items()) for x in values],
        *(v for _, v in sorted(by_snr.items())),
    ):
        logarithm = -10 * sum(math.log10(x) for x in errors) / len(errors)
        cells.append(f"{sum(errors) / len(errors):.3f}, {logarithm:.2f} dB")
    print(f"| {folder.name} | " + " | ".join(cells) + " |", flush=True)


def batches(corpus: Path, cache: Path) -> None:
    """Print the tables of the first batches."""
    rule = "exponentiated-entries"
    recipe = read_recipe(Path(__file__).parent / "recipes" / f"{rule}.toml")
    where = Recordings(corpus / "train/speech", corpus / "train/noise", corpus / "rir", corpus / "dev")
    key = digest(*map(changed, (where, recipe.mixing, recipe.augmentation)), recipe.training.seed)
    source, _ = open_corpus(where, recipe)
    network = initial_network(recipe, source, cache=cache, key=key)
    settings = recipe.training
    store = FrameStore(source, recipe.front_end, network, settings.batch, settings.frame_stride, cache, key)
    descent = MultiplicativeDescent(network, recipe.objective, rule, settings.momentum)
    slopes, quotients = [], []
    for index in range(BATCHES):
        parts = descent.parts(store[index])[0]
        w = {name: getattr(network.unfolded.bank, name)().detach() for name in parts}
        slopes.append({name: w[name] * (p.positive - p.negative) for name, p in parts.items()})
        quotients.append({name: _log_quotient(p) for name, p in parts.items()})
    norms = [float(torch.cat([g.flatten() for g in batch.values()]).norm()) for batch in slopes]
    print("norm of the gradient by log W, batch by batch: " + ", ".join(f"{x:.3f}" for x in sorted(norms)))
    print("\n| dictionary | | median of rms | below epsilon | batches averaged | mean over rms |")
    print("|---|---|---|---|---|---|")
    for name in slopes[0]:
        for kind, values in (("gradient", slopes), ("log N/P", quotients)):
            print(f"| {name} | {kind} | " + " | ".join(row(torch.stack([x[name] for x in values]))) + " |")


def row(x: Tensor) -> list[str]:
    """Of values (batches, F, R): the median size, the share below Adam's epsilon, and the medians over entries of the
    number of batches that (sum |x|)^2 / sum x^2 counts, and of |mean| over root mean square."""
    rms = x.square().mean(0).sqrt().clamp_min(1e-30)
    counted = x.abs().sum(0).square() / (len(x) * rms.square())
    shares = [f"{float(rms.median()):.1e}", f"{float((rms < ADAM_EPSILON).float().mean()):.1%}"]
    return [*shares, f"{float(counted.median()):.1f}", f"{float((x.mean(0).abs() / rms).median()):.2f}"]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
