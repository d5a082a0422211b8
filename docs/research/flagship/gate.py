"""A second stage behind a model, which takes down what its masks leave in pauses: what it brings, and what it costs.

    python docs/research/flagship/gate.py gather CORPUS DATA      mixtures of CORPUS/train, after the masks of base
    python docs/research/flagship/gate.py train DATA NAME PAUSES COMPRESSED      weights of two terms of the loss
    python docs/research/flagship/gate.py score CORPUS DATA base NAME ...        the table of quiet.md

The gate is as that above 8 kHz (deepnmf_cli/signal/masks.py): averages that follow noise and speech, and relaxed spins,
make a gain from 0 to 1 for each of thirteen bands, of the power there before and after the mask.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from quiet import COLUMNS, RATE, pauses, scores
from torch import Tensor, nn
from tqdm import tqdm

from deepnmf_cli import load_enhancer
from deepnmf_cli.corpus.augment import AugmentationSettings
from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.dataset import MixingSettings, MixtureDataset
from deepnmf_cli.corpus.manifest import pair_folders, scan
from deepnmf_cli.kernels.recursion import relax
from deepnmf_cli.signal.masks import FARTHEST, SILENT
from deepnmf_cli.streaming import StreamingEnhancer

EDGES_HZ = (0, 100, 200, 300, 450, 650, 900, 1250, 1750, 2450, 3400, 4700, 6300, 8001)
BANDS = len(EDGES_HZ) - 1
WIDTHS = torch.tensor(np.diff(EDGES_HZ).astype(np.float32))
MIXTURES, SECONDS, HELD_OUT = 700, 6.0, 60
STEPS, BATCH, RATE_OF_LEARNING, SPINS = 500, 48, 0.006, 24
EVERY = 5
"""Every fifth of the dev recordings is scored, as in quiet.py."""


def membership(bins: int) -> np.ndarray:
    """Which bins belong to which band (BANDS, bins)."""
    hz = np.arange(bins) * 8000 / (bins - 1)
    return np.stack([(hz >= low) & (hz < high) for low, high in pairwise(EDGES_HZ)]).astype(np.float32)


def means(bins: int) -> np.ndarray:
    """Matrix from powers of bins to mean powers of bands."""
    matrix = membership(bins)
    return matrix / matrix.sum(1, keepdims=True)


def gather(corpus: Path, data: Path) -> None:
    """Mean powers by band and frame: of mixture, masked mixture and speech, and the cross term of the last two."""
    mixing, changes = MixingSettings(segment_s=SECONDS), AugmentationSettings(held_probability=0.05)
    clips = [scan(corpus / part) for part in ("train/speech", "train/noise", "rir")]
    mixtures = MixtureDataset(*clips, mixing, RATE, 77, augmentation=changes)
    stream = load_enhancer("base", device="cpu").stream(RATE, 1)
    to_bands, found = means(stream.bins), []
    for number in tqdm(range(MIXTURES)):
        speech, noise = mixtures[number]
        stream.reset()
        s, x = (stream.pair.analysis(y[None]).astype(np.complex64)[0] for y in (speech, speech + noise))
        y = stream._mask(x[None]) * x
        powers = {"mixture": abs(x) ** 2, "kept": abs(y) ** 2, "clean": abs(s) ** 2, "cross": (y.conj() * s).real}
        found.append({key: to_bands @ power for key, power in powers.items()})
    data.mkdir(parents=True, exist_ok=True)
    np.savez(data / "train.npz", **{key: np.stack([f[key] for f in found]).astype(np.float32) for key in found[0]})


class Gate(nn.Module):
    """Gains (T, N, BANDS) of powers of mixture and masked mixture (T, N, BANDS)."""

    def __init__(self) -> None:
        super().__init__()
        self.rate, self.gain = nn.Linear(BANDS, 2 * BANDS), nn.Linear(SPINS + BANDS, BANDS)
        self.spin, self.spin_rate = nn.Linear(6 * BANDS, SPINS), nn.Linear(6 * BANDS, SPINS)
        with torch.no_grad():
            for layer, size in ((self.rate, 0.1), (self.spin, 0.05), (self.spin_rate, 0.03), (self.gain, 0.05)):
                layer.weight.normal_(0, size)
                layer.bias.zero_()
            self.rate.bias.fill_(-3)
            self.gain.bias.fill_(3)

    def forward(self, mixture: Tensor, kept: Tensor) -> Tensor:
        mixture, kept = torch.log(mixture + SILENT), torch.log(kept + SILENT)
        share, levels = (kept - mixture).clamp(-FARTHEST, 0), torch.cat([mixture, kept], -1)
        path = relax(levels, self.rate(share / 4).sigmoid(), levels[0])
        loudest = path[..., BANDS:].amax(-1, keepdim=True)
        over = torch.cat([levels - path, kept - loudest, path - mixture.mean(-1, keepdim=True)], -1)
        inputs = torch.cat([share, over.clamp(-FARTHEST, FARTHEST)], -1) / 4
        aims = self.spin(inputs).tanh()
        spins = relax(aims, self.spin_rate(inputs).sigmoid(), aims[0])
        return self.gain(torch.cat([spins, share / 4], -1)).sigmoid()


def loss(gains: Tensor, z: dict[str, Tensor], pause_weight: float, compressed_weight: float) -> tuple[Tensor, Tensor]:
    """-SNR in units of 10 dB, the distance of magnitudes raised to 0.3, and the level of what is left in pauses in
    units of 10 dB, the last two by their weights; and that level in dB.
    """
    kept = gains**2 * z["kept"]
    error, clean = ((power * WIDTHS).sum((0, 2)) for power in (kept - 2 * gains * z["cross"] + z["clean"], z["clean"]))
    snr = torch.log10((error + 3e-3 * clean + 1e-12) / (clean + 1e-12)).mean()
    target = (z["clean"] + 1e-12) ** 0.15
    compressed = ((((kept + 1e-12) ** 0.15 - target) ** 2).sum((0, 2)) / (target**2).sum((0, 2))).mean()
    left, mixture, pause = (kept * WIDTHS).sum(-1), (z["mixture"] * WIDTHS).sum(-1), z["pause"]
    total = snr + compressed_weight * compressed
    total = total + pause_weight * (pause * torch.log10(left / (mixture + 1e-12) + 10**-4.5)).mean()
    level_db = 10 * torch.log10((left + 1e-14) / (mixture + 1e-14))
    return total, (level_db * pause).sum() / pause.sum()


def train(data: Path, name: str, pause_weight: float, compressed_weight: float) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with np.load(data / "train.npz") as file:
        z = {key: torch.tensor(file[key]).permute(2, 0, 1).contiguous() for key in file.files}
    powers = ((z[key] * WIDTHS).sum(-1).T.numpy() for key in ("clean", "mixture"))
    quiet = [pauses(*pair) for pair in zip(*powers, strict=True)]
    z["pause"] = torch.tensor(np.stack(quiet).T.astype(np.float32))
    gate, count = Gate(), z["mixture"].shape[1] - HELD_OUT
    optimizer = torch.optim.Adam(gate.parameters(), RATE_OF_LEARNING, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE_OF_LEARNING, total_steps=STEPS, pct_start=0.1)
    for _ in tqdm(range(STEPS)):
        chosen = torch.randperm(count)[:BATCH]
        some = {key: values[:, chosen] for key, values in z.items()}
        optimizer.zero_grad()
        loss(gate(some["mixture"], some["kept"]), some, pause_weight, compressed_weight)[0].backward()
        nn.utils.clip_grad_norm_(gate.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        held = {key: values[:, -HELD_OUT:] for key, values in z.items()}
        for what, gains in (("base", torch.ones(())), (name, gate(held["mixture"], held["kept"]))):
            total, level_db = loss(gains, held, 0.0, compressed_weight)
            print(f"{what}: loss without the term on pauses {total:.4f}, level in pauses {level_db:.1f} dB")
    torch.save(gate.state_dict(), data / f"{name}.pt")


def enhanced(stream: StreamingEnhancer, noisy: np.ndarray, gate: Gate | None) -> np.ndarray:
    """The recording (N,) by the model, and by the gate behind it."""
    stream.reset()
    x = stream.pair.analysis(noisy[None]).astype(np.complex64)
    mask = stream._mask(x)
    if gate is not None:
        powers = (means(stream.bins) @ abs(y) ** 2 for y in (x[0], mask * x[0]))
        with torch.no_grad():
            gains = gate(*(torch.tensor(power.T[:, None]) for power in powers))[:, 0].T.numpy()
        mask = mask * (membership(stream.bins).T @ gains)
    return stream.pair.synthesis(x * mask, len(noisy))[0]


def score(corpus: Path, data: Path, names: list[str]) -> None:
    stream = load_enhancer("base", device="cpu").stream(RATE, 1)
    files = pair_folders(corpus / "dev/clean", corpus / "dev/noisy")[::EVERY]
    pairs = [[decode(path, RATE) for path in pair] for pair in files]
    print(f"| {len(pairs)} recordings | {' | '.join(COLUMNS)} |\n|---{'|---' * len(COLUMNS)}|")
    for name in names:
        gate = None
        if name != "base":
            gate = Gate()
            gate.load_state_dict(torch.load(data / f"{name}.pt", weights_only=True))
        rows = [scores(clean, noisy, enhanced(stream, noisy, gate)) for clean, noisy in pairs]
        print(f"| {name} | {' | '.join(f'{x:.3f}' for x in np.nanmean(rows, 0))} |", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("verb", choices=["gather", "train", "score"])
    arguments.add_argument("given", nargs="+")
    given = arguments.parse_args()
    if given.verb == "gather":
        gather(*map(Path, given.given))
    if given.verb == "train":
        data, name, *weights = given.given
        train(Path(data), name, *map(float, weights))
    if given.verb == "score":
        corpus, data, *names = given.given
        score(Path(corpus), Path(data), names)


if __name__ == "__main__":
    main()
