"""Figures of repair on clean speech, with classical methods in the same run.

    python docs/research/repair/figures.py CORPUS OUT [--files 24] [--seed 0] [--beside NAME=FILE] [--part test]

Writes OUT/results.json: SNR in gaps of 5 to 40 ms, gain of declipping at 3 to 10 dB, PESQ after losses of packets, and
the CPU time of each method. Of CORPUS it takes dev/clean; with --part test it takes test/clean, once for a release,
and records the look before (docs/research/look.py). --beside adds a row to the gaps for a model of `deepnmf train
fill-gaps`.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deepnmf_cli import __version__
from deepnmf_cli.repair import autoregression, model
from deepnmf_cli.repair.examine import RepairOptions
from deepnmf_cli.repair.live import LiveRepairer
from deepnmf_cli.repair.projection import Observation, nmf_wiener, persistent_wiener, soft_threshold, unit_gain
from deepnmf_cli.repair.repairer import Repairer
from deepnmf_cli.repair.spans import HARD, Clipping, Findings, Span
from deepnmf_cli.signal import audio
from deepnmf_cli.signal.formats import scan
from deepnmf_cli.signal.tight_frame import TightFrame
from deepnmf_cli.training.repair import clip_level, clipped_at, gap_at

RATE_HZ, CONTEXT = 16000, 1280
GAPS_MS, PER_FILE = (5, 10, 20, 40), 3
SDR_DB = (3, 5, 7, 10)
PACKET, LOSS, BURST = 320, 0.1, 2.0


def ratio_db(clean: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((clean**2).sum() / ((clean - found) ** 2).sum()))


def linear(observed: Observation) -> np.ndarray:
    places = np.arange(observed.samples.shape[-1])
    known = ~observed.missing[0]
    return np.interp(places, places[known], observed.samples[0, known])[None]


def janssen(observed: Observation) -> np.ndarray:
    """p = 128, five iterations, as the method is published; without a noise floor."""
    kept = (autoregression.ORDERS_S, autoregression.CONTEXT_S, autoregression.RIDGE)
    autoregression.ORDERS_S, autoregression.CONTEXT_S, autoregression.RIDGE = ((0.008,) * 5, 0.064, 1e-6)
    filled = autoregression.fill(observed.samples[0], observed.missing[0], RATE_HZ)[None]
    autoregression.ORDERS_S, autoregression.CONTEXT_S, autoregression.RIDGE = kept
    return filled


def autoregressive(observed: Observation) -> np.ndarray:
    return autoregression.fill(observed.samples[0], observed.missing[0], RATE_HZ)[None]


def iterated(hop: int, count: int, shrink: Callable[[np.ndarray, float], np.ndarray], highest: float = 2.0):
    """Classical consistent projection with thresholds that fall by equal factors."""

    def run(observed: Observation) -> np.ndarray:
        frame, gain = TightFrame(hop), unit_gain(observed.samples, observed.missing)
        scaled = observed.scaled(gain)
        estimate = scaled.project(scaled.samples)
        for threshold in np.geomspace(highest, 0.003, count):
            coefficients = shrink(frame.analysis(estimate), threshold)
            estimate = scaled.project(frame.synthesis(coefficients, estimate.shape[-1]))
        return observed.project(estimate / gain)

    return run


def pew(c: np.ndarray, threshold: float) -> np.ndarray:
    return persistent_wiener(c, np.array(threshold), np.ones(5), np.ones(1))


def l1(c: np.ndarray, threshold: float) -> np.ndarray:
    return soft_threshold(c, np.array(threshold))


def sparse(hop: int, count: int):
    """A-SPADE and A-SPAIN alike: ADMM on the analysis coefficients, of which each frame keeps one more every step."""

    def run(observed: Observation) -> np.ndarray:
        frame, estimate = TightFrame(hop), observed.samples.copy()
        dual = np.zeros_like(frame.analysis(estimate))
        for kept in range(1, count + 1):
            z = frame.analysis(estimate) + dual
            size = np.abs(z)
            least = np.partition(size, -kept, axis=-1)[..., -kept][..., None]
            chosen = np.where(size >= least, z, 0)
            estimate = observed.project(frame.synthesis(chosen - dual, estimate.shape[-1]))
            dual = dual + frame.analysis(estimate) - chosen
        return estimate

    return run


def learned_nmf(paths: list[Path], hop: int, atoms: int = 24, seed: int = 0) -> np.ndarray:
    """A dictionary (F, atoms) of magnitudes, by KL-NMF."""
    frame, draw = TightFrame(hop), np.random.default_rng(seed)
    parts = [audio.read(path, "float64")[0][0] for path in paths]
    v = np.concatenate([np.abs(frame.analysis(x / np.sqrt((x**2).mean()))) for x in parts])[::4].T + 1e-9
    w, h = draw.random((len(v), atoms)) + 0.1, draw.random((atoms, v.shape[1])) + 0.1
    for _ in range(60):
        h *= (w.T @ (v / (w @ h))) / w.sum(0)[:, None]
        w *= ((v / (w @ h)) @ h.T) / h.sum(1)
    return w / w.sum(0)


def timed(method: Callable[[Observation], np.ndarray], observed: Observation) -> tuple[np.ndarray, float]:
    begin = time.process_time()
    return method(observed), time.process_time() - begin


def gaps(files: list[np.ndarray], methods: dict, seed: int) -> dict:
    draw, rows = np.random.default_rng(seed), {}
    for ms in GAPS_MS:
        length, found = ms * RATE_HZ // 1000, {name: [] for name in methods}
        for samples in files:
            left = PER_FILE
            while left:
                first = int(draw.integers(CONTEXT, len(samples) - CONTEXT - length))
                if (samples[first : first + length] ** 2).mean() < 0.09 * (samples**2).mean():
                    continue
                left -= 1
                part = samples[None, first - CONTEXT : first + length + CONTEXT]
                missing = np.zeros(part.shape, bool)
                missing[:, CONTEXT : CONTEXT + length] = True
                for name, method in methods.items():
                    y, cpu_s = timed(method, gap_at(part, missing))
                    found[name].append((ratio_db(part[missing], y[missing]), cpu_s))
        rows[ms] = {name: summary(values) for name, values in found.items()}
    return rows


def declipping(files: list[np.ndarray], methods: dict) -> dict:
    rows = {}
    for db in SDR_DB:
        found = {name: [] for name in methods}
        for samples in files:
            level = clip_level(samples, db)
            observed = clipped_at(samples[None], level)
            for name, method in methods.items():
                y, cpu_s = timed(method, observed)
                found[name].append((ratio_db(samples, y[0]) - db, cpu_s / (len(samples) / RATE_HZ)))
        rows[db] = {name: summary(values) for name, values in found.items()}
    return rows


def packets(files: list[np.ndarray], shipped: dict, seed: int) -> dict:
    from pesq import pesq

    draw = np.random.default_rng(seed)
    found: dict[str, list] = {"zeros": [], "repetition": [], "shipped": [], "shipped, as a stream": []}
    for samples in files:
        lost, state = np.zeros(len(samples) // PACKET, bool), False
        for k in range(1, len(lost) - 1):  # Gilbert's model
            state = draw.random() < (1 - 1 / BURST if state else LOSS / BURST / (1 - LOSS))
            lost[k] = state
        inside = np.zeros(len(samples), bool)
        inside[: len(lost) * PACKET] = np.repeat(lost, PACKET)
        zeros = np.where(inside, 0.0, samples)
        repeated = zeros.copy()
        for k in np.flatnonzero(lost):
            repeated[k * PACKET : (k + 1) * PACKET] = repeated[(k - 1) * PACKET : k * PACKET]
        spans = [Span(a, b, "gap") for a, b in autoregression.stretches(inside)]
        rows = {"zeros": (zeros, 0.0), "repetition": (repeated, 0.0)}
        begin = time.process_time()
        filled = _repaired(zeros[None], Findings(spans), shipped)[0]
        middle = time.process_time()
        rows["shipped"] = filled, middle - begin
        rows["shipped, as a stream"] = streamed(zeros[None])[0], time.process_time() - middle
        for name, (y, spent) in rows.items():
            spent /= len(samples) / RATE_HZ
            found[name].append((pesq(RATE_HZ, samples, y, "wb"), spent))
    return {name: summary(values) for name, values in found.items()}


def summary(values: list[tuple[float, float]]) -> dict:
    scores = np.array([v for v, _ in values])
    error = float(scores.std(ddof=1) / np.sqrt(len(scores)))
    return {
        "mean": round(float(scores.mean()), 3), "standard error": round(error, 3), "n": len(scores),
        "cpu": round(float(np.mean([c for _, c in values])), 5),
    }  # fmt: skip


def whole(shipped: dict, task: str) -> Callable[[Observation], np.ndarray]:
    """A model as a recording meets it."""

    def run(observed: Observation) -> np.ndarray:
        if task == model.GAPS:
            spans = [Span(first, end, "gap") for first, end in autoregression.stretches(observed.missing[0])]
            return _repaired(observed.samples, Findings(spans), shipped)
        level = float(np.abs(observed.samples).max())
        return _repaired(observed.samples, Findings([], [Clipping(0, level, level, HARD)]), shipped)

    return run


def _repaired(samples: np.ndarray, findings: Findings, shipped: dict) -> np.ndarray:
    repairer = Repairer(findings, shipped, RATE_HZ, 1)
    return np.concatenate([repairer.feed(samples), repairer.flush()], -1)


def streamed(samples: np.ndarray) -> np.ndarray:
    """As `deepnmf stream --repair` by blocks of 16 ms, losses being found."""
    repairer = LiveRepairer(RepairOptions(), RATE_HZ, 1)
    pieces = [repairer.feed(samples[:, k : k + 256]) for k in range(0, samples.shape[1], 256)]
    return np.concatenate([*pieces, repairer.flush()], -1)


def register_look(folder: Path) -> None:
    """Record that the repair of this release is looked at on a reserved set. Raises CorpusError if it has been."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from look import REGISTER, record  # pyright: ignore[reportMissingImports]

    release = f"{__version__}, repair"
    command = ["python", "docs/research/repair/figures.py", *sys.argv[1:]]
    record(REGISTER, folder, list(model.TASKS), command, release)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="gaps,declipping,packets")
    parser.add_argument("--beside", metavar="NAME=FILE", action="append", default=[])
    parser.add_argument("--part", choices=["dev", "test"], default="dev")
    given = parser.parse_args()
    if given.part == "test":
        register_look(given.corpus / given.part)
    paths = scan(given.corpus / given.part / "clean").audio
    chosen = paths[:: max(1, len(paths) // given.files)][: given.files]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in chosen)).hexdigest()
    files = [audio.read(path, "float64")[0][0] for path in chosen]
    shipped = {task: model.load(model.shipped(task)) for task in model.TASKS}
    train = scan(given.corpus / "train" / "speech").audio
    dictionary = learned_nmf(train[:: max(1, len(train) // 20)][:20], 128)

    def nmf(c: np.ndarray, threshold: float) -> np.ndarray:
        return nmf_wiener(c, np.array(threshold), dictionary)

    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    given.out.mkdir(parents=True, exist_ok=True)
    target = given.out / "results.json"
    results = json.loads(target.read_text()) if target.exists() else {}
    results |= {"files": len(files), "seed": given.seed, "sha256": digest, "commit": commit}
    if "gaps" in given.only:
        results["gaps: SNR [dB] by ms; cpu is seconds a gap"] = gaps(files, {
            "linear": linear, "Janssen p=128": janssen, "SPAIN-like": sparse(128, 60),
            "l1, 20": iterated(128, 20, l1), "PEW, 100": iterated(128, 100, pew),
            "NMF, 20": iterated(128, 20, nmf, 0.5),
            "autoregression alone": autoregressive, "shipped": whole(shipped, model.GAPS),
            **{name: whole({model.GAPS: model.load(Path(file))}, model.GAPS)
               for name, _, file in (text.partition("=") for text in given.beside)},
        }, given.seed)  # fmt: skip
        target.write_text(json.dumps(results, indent=1) + "\n")
    if "declipping" in given.only:
        few = files[:: max(1, len(files) // 12)]
        results["declipping: gain in SDR [dB] by input SDR; cpu is a share of real time"] = declipping(few, {
            "SPADE-like": sparse(256, 60), "l1, 20": iterated(256, 20, l1), "PEW, 20": iterated(256, 20, pew),
            "PEW, 100": iterated(256, 100, pew), "NMF, 20": iterated(128, 20, nmf, 0.5),
            "shipped": whole(shipped, model.CLIPPING),
        })  # fmt: skip
        target.write_text(json.dumps(results, indent=1) + "\n")
    if "packets" in given.only:
        results["packet loss: PESQ; cpu is a share of real time"] = packets(files, shipped, given.seed)
        target.write_text(json.dumps(results, indent=1) + "\n")
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps(results, indent=1), f"{used.ru_utime:.0f} s of CPU")


if __name__ == "__main__":
    main()
