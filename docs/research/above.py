"""Gains above a network's reach: collect full-band recordings, mix them, train, and score.

    python docs/research/above.py gather SOURCES DATA     SOURCES/NAME holds the audio files of a package or repository
    python docs/research/above.py mix DATA MODEL          mixtures at 48 kHz, and MODEL's result for them below 8 kHz
    python docs/research/above.py train DATA WEIGHTS      the weights of deepnmf_cli/signal/above.json
    python docs/research/above.py score DATA WEIGHTS      SNR by band, the first two tables of above.md
    python docs/research/above.py export DATA FOLDER      the mixtures of dev as FOLDER/clean and FOLDER/noisy
    python docs/research/above.py compare FOLDER NAME ... SNR by band of the results of programs, FOLDER/NAME

`gather` takes recordings at 44.1 kHz or more with sound above 8 kHz (speech) or 12 kHz (noise). All recordings of a
voice, or of a source of noise, go either to train or to dev.
"""

import argparse
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor, nn
from tqdm import tqdm

from deepnmf_cli import load_enhancer
from deepnmf_cli.corpus.mixing import is_silent, scale_to_level, scale_to_snr
from deepnmf_cli.kernels.recursion import relax
from deepnmf_cli.signal.masks import EDGES, FARTHEST, SILENT, SMALLEST, AboveBands
from deepnmf_cli.signal.stft import FrontEnd, StftPair

RATE_HZ, PIECE_S = 48000, 5
SECONDS = {"speech": PIECE_S, "noise": 8}
"""Short recordings of one voice or source are joined until they have this length in seconds."""
VOICES = {
    "NabuCasa+voice-datasets": -2, "hedgewars-data": -2, "ktuberling-data": -2, "KDE+artikulate-data": -2,
    "fillets-ng-data-cs": -3, "fillets-ng-data-nl": -3, "tuxpaint-stamps-default": None,
}  # fmt: skip
"""Sources of speech, and which folder of a file names the voice; None: a language at the end of the file's name."""
SPOKEN = ("voice", "announcer", "player", "speech", "talk", "villager", "zombie", "music", "atc")
"""Parts of paths of files that are not used as noise."""
PAUSE_DB = 26
"""Smallest distance in dB of pauses of speech below its loud frames, from 8 to 12 kHz."""
TOP = 33
"""Number of bins in the 500 Hz below 8 kHz; the gains above are compared with their mean mask."""
SEED = 11
SPINS, STEPS, BATCH, RATE, COMPRESSED = 24, 800, 64, 0.006, 1.0
WIDTHS_KHZ = np.diff([8 * edge for edge in (*EDGES, 3.0)]).astype(np.float32)
GROUPS = {"8 to 12 kHz": slice(0, 3), "12 to 16 kHz": slice(3, 5), "16 to 24 kHz": slice(5, 7)}
BANDS_KHZ = ((0, 8), (8, 12), (12, 16), (16, 24))
DEV = 160
"""Number of mixtures of dev."""
MOST = {"speech": 40, "noise": 150}
"""Largest number of recordings of one voice or source."""


def gather(sources: Path, data: Path) -> None:
    paths = [p for p in sources.rglob("*.*") if p.suffix.lower() in (".wav", ".ogg", ".flac", ".mp3", ".opus")]
    np.random.default_rng(SEED).shuffle(paths := sorted(paths))
    kept: dict[tuple[str, str], list[np.ndarray]] = {}
    for path in tqdm(paths):
        group = group_of(path.relative_to(sources))
        if group is None or len(kept.get(group, [])) >= MOST[group[0]]:
            continue
        samples = read(path)
        if samples is not None and {"speech": is_clean, "noise": is_wide}[group[0]](samples):
            kept.setdefault(group, []).append(samples[: 20 * RATE_HZ])
    for (kind, name), recordings in kept.items():
        part = "dev" if zlib.crc32(name.encode()) % 4 == 0 else "train"
        for number, samples in enumerate(joined(recordings, SECONDS[kind])):
            out = data / part / kind / f"{name.replace('/', '+')}-{number:03}.flac"
            out.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(out, samples / max(1, abs(samples).max()), RATE_HZ)


def group_of(path: Path) -> tuple[str, str] | None:
    """Return the kind of a file of the sources, and its voice or source; None if it is neither speech nor noise."""
    source = path.parts[0]
    if source not in VOICES:
        return None if any(word in str(path).lower() for word in SPOKEN) else ("noise", source)
    place = VOICES[source]
    voice = path.stem.rpartition("_")[2] if place is None else path.parts[place]
    if voice in ("Music", "Sounds") or (place is None and len(voice) != 2):
        return None
    return "speech", f"{source}-{voice}"


def read(path: Path) -> np.ndarray | None:
    """Return samples (N,) at 48 kHz of a recording at 44.1 kHz or more; None for others, and below half a second."""
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True, frames=60 * RATE_HZ)
    except soundfile.LibsndfileError:
        return None
    if rate_hz < 44100 or len(samples) < rate_hz / 2:
        return None
    return soxr.resample(samples.mean(1), rate_hz, RATE_HZ)


def by_frame(samples: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Return the power in dB of a band in frames of 1024 samples."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::512]
    power = abs(np.fft.rfft(frames * np.hanning(1024))) ** 2
    hz = np.fft.rfftfreq(1024, 1 / RATE_HZ)
    return 10 * np.log10(power[:, (hz >= low_hz) & (hz < high_hz)].sum(1) + 1e-9)


def is_clean(samples: np.ndarray) -> bool:
    """Return whether there is speech from 8 to 12 kHz, with pauses without noise."""
    loud, pause = np.percentile(by_frame(samples, 8000, 12000), (97, 5))
    body = np.percentile(by_frame(samples, 100, 8000), 97)
    return loud - max(pause, -60) > PAUSE_DB and loud > body - 40


def is_wide(samples: np.ndarray) -> bool:
    """Return whether there is sound from 12 to 16 kHz, at most 50 dB below that below 8 kHz."""
    return by_frame(samples, 12000, 16000).max() > by_frame(samples, 100, 8000).max() - 50


def joined(recordings: list[np.ndarray], seconds: float) -> Iterator[np.ndarray]:
    pieces: list[np.ndarray] = []
    for samples in recordings:
        pieces.append(samples)
        if sum(map(len, pieces)) >= seconds * RATE_HZ:
            yield np.concatenate(pieces)
            pieces = []
    if sum(map(len, pieces)) >= 3 * RATE_HZ:
        yield np.concatenate(pieces)


def files(data: Path, part: str, kind: str) -> dict[str, list[Path]]:
    """Return the recordings of a part and kind by voice or source."""
    groups: dict[str, list[Path]] = {}
    for path in sorted((data / part / kind).glob("*.flac")):
        groups.setdefault(path.stem.rpartition("-")[0], []).append(path)
    return groups


class Mixer:
    """Pairs of clean and noisy recordings (N,) at 48 kHz, for "train", "dev", or "clean": voices of dev at 60 dB."""

    def __init__(self, data: Path, part: str) -> None:
        self.is_train, self.is_clean = part == "train", part == "clean"
        part = "dev" if self.is_clean else part
        self.speech, self.noise = files(data, part, "speech"), files(data, part, "noise")

    def __call__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng([SEED, self.is_train, number])
        clean = segment(self._drawn(self.speech, draw), draw)
        if draw.random() < 0.1:
            noise = draw.standard_normal(len(clean)).astype(np.float32)
        else:
            noise = segment(self._drawn(self.noise, draw), draw)
        if self.is_train:
            clean, noise = shelved(clean, draw.uniform(-6, 6)), shelved(noise, draw.uniform(-8, 8))
            if draw.random() < 0.2:  # silence at the start
                start = draw.integers(len(clean) // 2)
                clean[:start] = noise[:start] = 0
            if draw.random() < 0.08:
                noise *= 1e-4
        if not is_silent(clean) and not is_silent(noise):
            noise = scale_to_snr(clean, noise, 60 if self.is_clean else draw.uniform(-6, 15))
        clean, noise = scale_to_level(clean, noise, draw.uniform(-40, -15))
        return clean, clean + noise

    @staticmethod
    def _drawn(groups: dict[str, list[Path]], draw: np.random.Generator) -> np.ndarray:
        paths = list(groups.values())[draw.integers(len(groups))]
        return soundfile.read(paths[draw.integers(len(paths))], dtype="float32")[0]


def segment(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    length = PIECE_S * RATE_HZ
    samples = np.tile(samples, -(-length // len(samples)))
    start = draw.integers(len(samples) - length + 1)
    return samples[start : start + length].copy()


def shelved(samples: np.ndarray, gain_db: float) -> np.ndarray:
    """Return samples with their level above 7 kHz changed by a gain that rises over an octave."""
    spectrum, hz = np.fft.rfft(samples), np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    rise = np.clip(np.log2(np.maximum(hz, 1) / 7000) + 0.5, 0, 1)
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20 * rise), len(samples)).astype(np.float32)


def mix(data: Path, model: str, part: str, count: int) -> None:
    """Write statistics of frames for training: powers of bands, of mixture and mask below, and of clean speech."""
    enhancer, mixer = load_enhancer(model, device="cpu"), Mixer(data, part)
    stream = enhancer.stream(RATE_HZ, 1)
    bands = AboveBands(stream.pair, stream.bins)
    found = []
    for number in tqdm(range(count)):
        clean, noisy = mixer(number)
        stream.reset()
        speech, mixture = (stream.pair.analysis(samples[None]).astype(np.complex64)[0] for samples in (clean, noisy))
        mask = stream._mask(mixture[None])
        below, x, s = mixture[: stream.bins], mixture[stream.bins :], speech[stream.bins :]
        kept, highest = mask[: stream.bins], mask[stream.bins - TOP : stream.bins].mean(0)
        found.append({
            "below": bands.below(abs(below) ** 2), "kept": bands.below(abs(kept * below) ** 2),
            "above": bands.above(abs(x) ** 2), "cross": bands.above((x.conj() * s).real),
            "clean": bands.above(abs(s) ** 2), "before": bands.above(abs(highest * x - s) ** 2),
        })  # fmt: skip
    np.savez(data / f"{part}.npz", **{key: np.stack([f[key] for f in found]).astype(np.float32) for key in found[0]})


def statistics(data: Path, part: str) -> dict[str, Tensor]:
    """Return the statistics that `mix` wrote, each (T, mixtures, bands)."""
    with np.load(data / f"{part}.npz") as file:
        return {key: torch.tensor(file[key]).permute(2, 0, 1).contiguous() for key in file.files}


class Gains(nn.Module):
    """`above_gains` for many recordings at once, with gradients."""

    def __init__(self, spins: int) -> None:
        super().__init__()
        self.rate, self.gain = nn.Linear(6, 14), nn.Linear(spins, 7)
        self.spin, self.spin_rate = nn.Linear(29, spins), nn.Linear(29, spins)
        with torch.no_grad():
            for layer, size in ((self.rate, 0.1), (self.spin, 0.1), (self.spin_rate, 0.05), (self.gain, 0.2)):
                layer.weight.normal_(0, size)
                layer.bias.zero_()
            self.rate.bias.fill_(-2)

    def forward(self, below: Tensor, kept: Tensor, above: Tensor, present: Tensor) -> Tensor:
        """Return gains (T, N, 7) for powers (T, N, 6), (T, N, 6) and (T, N, 7)."""
        highest = ((kept[..., -1:] + SMALLEST) / (below[..., -1:] + SMALLEST)).sqrt().clamp(max=1)
        below, kept, above = (torch.log(power + SILENT) for power in (below, kept, above))
        share = (kept - below).clamp(-FARTHEST, 0)
        levels = torch.cat([above, above], -1)
        path = relax(levels, self.rate(share).sigmoid(), levels[0])
        slopes = torch.stack([kept[..., 4] - kept[..., 1], below[..., 4] - below[..., 1]], -1)
        over = torch.cat([above - kept[..., 4:5], levels - path], -1) * torch.cat([present] * 3, -1)
        inputs = torch.cat([share, torch.cat([slopes, over], -1).clamp(-FARTHEST, FARTHEST)], -1)
        aims = self.spin(inputs).tanh()
        odds = self.gain(relax(aims, self.spin_rate(inputs).sigmoid(), aims[0])).exp() * highest
        return odds / (1 - highest + odds).clamp_min(1e-9)


def varied(z: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the statistics with other levels of speech and noise in every band, and a hiss in a third of mixtures."""
    count, clean = z["above"].shape[1], z["clean"]
    both, noise = z["cross"] - clean, z["above"] + clean - 2 * z["cross"]

    def changes() -> Tensor:
        db = torch.randn(1, count, 7).cumsum(-1) * 8 / 3 + torch.randn(1, count, 1) * 8 / 2
        return 10 ** (db.clamp(-20, 20) / 20)

    a, b = changes(), changes()
    clean, both, noise = a * a * clean, a * b * both, b * b * noise.clamp_min(0)
    hiss = (torch.rand(1, count, 1) < 0.3) * noise.mean(0, True) * 10 ** (torch.randn(1, count, 7) * 0.8 - 0.5)
    return z | {"clean": clean, "cross": clean + both, "above": (clean + 2 * both + noise + hiss).clamp_min(0)}


def error(gains: Tensor, z: dict[str, Tensor]) -> Tensor:
    """Return the power of g x - s."""
    return gains**2 * z["above"] - 2 * gains * z["cross"] + z["clean"]


def loss(gains: Tensor, z: dict[str, Tensor], present: Tensor) -> Tensor:
    """Return -SNR by band in units of 10 dB, at most 25 dB, plus the distance of magnitudes to the power of 0.3."""
    clean, mixture = z["clean"].sum(0), z["above"].sum(0)
    least = 1e-4 * mixture + 1e-12
    snr = torch.log10((error(gains, z).sum(0) + 3e-3 * clean + least) / (clean + least))
    difference = gains.clamp_min(1e-4) ** 0.6 * (z["above"] + 1e-12) ** 0.3 - (z["clean"] + 1e-12) ** 0.3
    compressed = (difference**2).sum(0) / ((z["above"] + 1e-12) ** 0.6).sum(0)
    return ((snr + COMPRESSED * compressed) * present[0]).sum() / present.sum()


def train(data: Path, weights: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    given, draw, gains = statistics(data, "train"), np.random.default_rng(SEED), Gains(SPINS)
    optimizer = torch.optim.Adam(gains.parameters(), RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for _ in tqdm(range(STEPS)):
        chosen = torch.tensor(draw.permutation(given["above"].shape[1])[:BATCH])
        z = varied({key: values[:, chosen] for key, values in given.items()})
        present = torch.ones(1, BATCH, 7)
        for number in np.flatnonzero(draw.random(BATCH) < 0.25):  # lower sampling rates
            present[:, number, draw.integers(1, 7) :] = 0
        z |= {key: z[key] * present for key in ("above", "cross", "clean")}
        optimizer.zero_grad()
        loss(gains(z["below"], z["kept"], z["above"], present), z, present).backward()
        nn.utils.clip_grad_norm_(gains.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    names = {key.replace(".weight", "").replace(".bias", "_bias"): value for key, value in gains.state_dict().items()}
    text = json.dumps({"weights": {key: [*rounded(value)] for key, value in names.items()}}, separators=(",", ":"))
    weights.write_text(text.replace('],"', '],\n"') + "\n")


def rounded(values: Tensor) -> Iterator[float | list[float]]:
    """Yield values with four digits, which are enough and keep the file short."""
    for value in values.tolist():
        yield [float(f"{x:.4g}") for x in value] if isinstance(value, list) else float(f"{value:.4g}")


def snr_db(err: Tensor, z: dict[str, Tensor], bands: slice) -> np.ndarray:
    """Return the SNR of each mixture (N,) over bands of these widths; NaN without speech of at least -30 dB."""
    width = torch.tensor(WIDTHS_KHZ[bands])
    err, clean, mixture = ((x[..., bands] * width).sum((0, 2)) for x in (err, z["clean"], z["above"]))
    found = (10 * torch.log10(clean / err.clamp_min(1e-15))).clamp(-30, 40)
    return torch.where(clean > 1e-3 * mixture, found, torch.nan).numpy()


def score(data: Path, weights: Path) -> None:
    gains = Gains(SPINS)
    table = json.loads(weights.read_text())["weights"]
    names = {f"{key.removesuffix('_bias')}.{'bias' if key.endswith('_bias') else 'weight'}": key for key in table}
    gains.load_state_dict({name: torch.tensor(table[key]) for name, key in names.items()})
    for part in ("dev", "clean"):
        z = statistics(data, part)
        with torch.no_grad():
            made = gains(z["below"], z["kept"], z["above"], torch.ones(1, 1, 7))
        systems = {
            "input": error(torch.ones(1), z), "gain of the highest 500 Hz": z["before"], "gains above": error(made, z),
            "best gains": error((z["cross"] / z["above"].clamp_min(1e-15)).clamp(0, 1), z),
        }  # fmt: skip
        found = {name: [snr_db(err, z, bands) for bands in GROUPS.values()] for name, err in systems.items()}
        print(f"\n{part}: {z['above'].shape[1]}\n| SNR in dB | {' | '.join(GROUPS)} |\n|---|---|---|---|")
        for name, groups in found.items():
            print(f"| {name} | {' | '.join(f'{np.nanmean(group):.2f}' for group in groups)} |")
        gain = [a - b for a, b in zip(found["gains above"], found["gain of the highest 500 Hz"], strict=True)]
        errors = [np.nanstd(x) / np.isfinite(x).sum() ** 0.5 for x in gain]
        cells = [f"{np.nanmean(x):+.2f} +- {1.96 * e:.2f}" for x, e in zip(gain, errors, strict=True)]
        print(f"| difference | {' | '.join(cells)} |")


def export(data: Path, folder: Path) -> None:
    mixer = Mixer(data, "dev")
    for number in range(DEV):
        for name, samples in zip(("clean", "noisy"), mixer(number), strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name / f"{number:03}.wav", samples, RATE_HZ, "FLOAT")


def compare(folder: Path, names: list[str]) -> None:
    """Print means over mixtures, and differences of the first program to the others with 95 % intervals over them."""
    pair = FrontEnd(window_hops=4).pair(RATE_HZ)
    khz = np.arange(pair.bins) * RATE_HZ / pair.window_samples / 1000
    bands = [(khz >= low) & (khz < high) for low, high in BANDS_KHZ]
    found: dict[str, list[list[float]]] = {name: [] for name in ("noisy", *names)}
    for path in sorted((folder / "clean").iterdir()):
        clean, noisy = (spectrum(folder / name / path.name, pair) for name in ("clean", "noisy"))
        for name, rows in found.items():
            out = spectrum(folder / name / path.name, pair)
            rows.append([ratio_db(clean[k], noisy[k], out[k]) for k in bands])
    print("| | " + " | ".join(f"{a:g} to {b:g} kHz" for a, b in BANDS_KHZ) + " |\n|---" + "|---" * len(BANDS_KHZ) + "|")
    table = {name: np.array(rows) for name, rows in found.items()}
    for name, rows in table.items():
        print(f"| {name} | " + " | ".join(f"{mean:.2f}" for mean in np.nanmean(rows, 0)) + " |")
    for name in names[1:]:
        less = table[names[0]] - table[name]
        half = 1.96 * np.nanstd(less, 0) / np.isfinite(less).sum(0) ** 0.5
        cells = [f"{mean:+.2f} ± {h:.2f}" for mean, h in zip(np.nanmean(less, 0), half, strict=True)]
        print(f"| {names[0]} less {name} | " + " | ".join(cells) + " |")


def spectrum(path: Path, pair: StftPair) -> np.ndarray:
    return pair.analysis(soundfile.read(path)[0])


def ratio_db(clean: np.ndarray, noisy: np.ndarray, out: np.ndarray) -> float:
    """Return the SNR of spectra (F, T) as in `snr_db`."""
    speech, mixture, err = (np.square(np.abs(x)).sum() for x in (clean, noisy, out - clean))
    return float(np.clip(10 * np.log10(speech / max(err, 1e-15)), -30, 40)) if speech > 1e-3 * mixture else np.nan


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("verb", choices=["gather", "mix", "train", "score", "export", "compare"])
    arguments.add_argument("paths", nargs="+", type=Path)
    given = arguments.parse_args()
    if given.verb == "gather":
        gather(*given.paths)
    if given.verb == "mix":
        mix(given.paths[0], str(given.paths[1]), "dev", DEV)
        mix(given.paths[0], str(given.paths[1]), "clean", 60)
        mix(given.paths[0], str(given.paths[1]), "train", 1200)
    if given.verb == "train":
        train(*given.paths)
    if given.verb == "score":
        score(*given.paths)
    if given.verb == "export":
        export(*given.paths)
    if given.verb == "compare":
        compare(given.paths[0], [str(name) for name in given.paths[1:]])


if __name__ == "__main__":
    main()
