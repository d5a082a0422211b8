"""How good is a network that is stopped early? The runs of descent/plan.toml at every depth, on CORPUS/dev.

    python docs/research/depth.py score CORPUS RUNS    SI-SDR and PESQ of complete runs, each after several layers
    python docs/research/depth.py collect RUNS         descent/depth.csv and depth.png, tables of descent/index.md

`score` continues where it was stopped.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from experiment import Run, read_plan, unscored
from matplotlib.figure import Figure
from report import NOT_THERE, difference, fill, read_rows, write_rows

from deepnmf_cli import zoo
from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.signal import audio
from deepnmf_cli.training.dev import enhanced

HERE = Path(__file__).parent / "descent"
PLAN, KEPT, FIGURE, PAGE = HERE / "plan.toml", HERE / "depth.csv", HERE / "depth.png", HERE / "index.md"
SCORES = "depth.csv"
SCORED = ("SI-SDR", "PESQ")
RATE_HZ = 16000
DEPTHS = {"grid": (1, 2, 3, 4), "deep-nmf": (2, 5, 10, 25)}
"""Family -> the layers after which its networks are stopped; the last is its full depth."""
WAYS = {
    "": "plain", "-supervised": "deep supervision", "-descent": "constraints",
    "-supervised-descent": "supervision and constraints", "-distilled": "supervision and distillation",
}  # fmt: skip
"""Suffix of a family's name in the plan -> its title here."""
COLOURS = dict(zip(WAYS, ("#777777", "#2f6f9f", "#b2443c", "#7d5a9c", "#4c8f57"), strict=True))


def runs_of_question() -> list[Run]:
    """Return the runs of the plan that this script is about, with seed 1."""
    rungs = {family + way for family in DEPTHS for way in WAYS}
    rungs |= {f"{family}-k{depth}" for family, depths in DEPTHS.items() for depth in depths}
    return [run for run in read_plan(PLAN) if run.seed == 1 and run.rung in rungs]


def family_of(rung: str) -> str:
    return next(family for family in DEPTHS if rung.startswith(family))


def score(corpus: Path, runs: Path) -> None:
    mixtures = read_rows(corpus / "dev/mixtures.csv")
    pairs = [[audio.read(corpus / "dev" / part / f"{m['name']}.flac", "float32")[0][0] for part in ("clean", "noisy")]
             for m in mixtures]  # fmt: skip
    for run in unscored(runs_of_question(), runs, SCORES):
        network, file = zoo.load(runs / run.name)
        table = []
        for depth in [depth for depth in DEPTHS[family_of(run.rung)] if depth in network.depths]:
            network.stop_after(depth)
            macs = round(network.macs_per_frame() * file.front_end.frames_per_s)
            for mixture, (clean, noisy) in zip(mixtures, pairs, strict=True):
                signals = clean.astype(np.float64), enhanced(network, file.front_end, noisy).astype(np.float64), RATE_HZ
                scores = {metric: f"{METRICS[metric].compute(*signals):.3f}" for metric in SCORED}
                names = {name: mixture[name] for name in ("name", "speaker", "noise")}
                table.append({"depth": depth, "macs_per_s": macs, **names, **scores})
        write_rows(runs / run.name / SCORES, table)


def layers(depth: int) -> str:
    return f"{depth} layer{'s' * (depth > 1)}"


class Scores:
    """SI-SDR and PESQ of every recording by (rung, depth)."""

    def __init__(self, table: Sequence[dict[str, str]]) -> None:
        self.found: dict[tuple[str, int], list[dict[str, str]]] = {}
        for row in table:
            self.found.setdefault((row["rung"], int(row["depth"])), []).append(row)

    def column(self, rung: str, depth: int, name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in self.found[rung, depth]])

    def reference(self, family: str, depth: int) -> str:
        """Return the rung of the network that was trained for one depth only."""
        return family if depth == DEPTHS[family][-1] else f"{family}-k{depth}"

    def once_there(self, family: str, table: Callable[[str], str]) -> str:
        """Return the table of a family, or NOT_THERE without its network of full depth."""
        return table(family) if (family, DEPTHS[family][-1]) in self.found else NOT_THERE

    def table(self, family: str) -> str:
        """Return SI-SDR in dB / PESQ at each depth: a row for each way of training, and for networks of that depth."""
        lines = ["| training | " + " | ".join(layers(depth) for depth in DEPTHS[family]) + " |",
                 "|---" * (1 + len(DEPTHS[family])) + "|"]  # fmt: skip
        cells = [self.cell(self.reference(family, depth), depth) for depth in DEPTHS[family]]
        lines.append(f"| a network for each depth | {' | '.join(cells)} |")
        for way, title in WAYS.items():
            if (family + way, DEPTHS[family][0]) in self.found:
                cells = [self.cell(family + way, depth) for depth in DEPTHS[family]]
                lines.append(f"| {title} | {' | '.join(cells)} |")
        macs = [self.found[family, depth][0]["macs_per_s"] for depth in DEPTHS[family] if (family, depth) in self.found]
        lines.append(
            "| multiply-adds per second, in millions | " + " | ".join(f"{int(m) / 1e6:.1f}" for m in macs) + " |"
        )
        return "\n".join(lines)

    def cell(self, rung: str, depth: int) -> str:
        if (rung, depth) not in self.found:
            return ""
        return f"{self.column(rung, depth, 'SI-SDR').mean():.2f} / {self.column(rung, depth, 'PESQ').mean():.3f}"

    def differences(self, family: str) -> str:
        """Return SI-SDR minus that of the network of that depth, with 95 % intervals over speakers and noises."""
        lines = ["| training | " + " | ".join(layers(depth) for depth in DEPTHS[family]) + " |",
                 "|---" * (1 + len(DEPTHS[family])) + "|"]  # fmt: skip
        for way, title in WAYS.items():
            cells = [self.difference(family + way, self.reference(family, depth), depth) for depth in DEPTHS[family]]
            if any(cells):
                lines.append(f"| {title} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def difference(self, rung: str, reference: str, depth: int) -> str:
        if rung == reference or not {(rung, depth), (reference, depth)} <= self.found.keys():
            return ""
        values = self.column(rung, depth, "SI-SDR") - self.column(reference, depth, "SI-SDR")
        return difference(values, self.found[rung, depth])

    def figure(self) -> Figure:
        """Plot SI-SDR over multiply-adds, with a line for each way of training, and dots for networks of one depth."""
        there = {family: depths for family, depths in DEPTHS.items() if (family, depths[-1]) in self.found}
        figure = Figure((5 * len(there), 4), layout="constrained")
        for axes, (family, depths) in zip(figure.subplots(1, len(there), squeeze=False)[0], there.items(), strict=True):
            for way, title in WAYS.items():
                points = [self.point(family + way, depth) for depth in depths if (family + way, depth) in self.found]
                if points:
                    axes.plot(*zip(*points, strict=True), marker=".", color=COLOURS[way], label=title)
            alone = [(self.reference(family, depth), depth) for depth in depths]
            points = [self.point(*one) for one in alone if one in self.found]
            if points:
                axes.plot(*zip(*points, strict=True), "o", mfc="none", color="black", label="a network for each depth")
            axes.set(title=family, xlabel="million multiply-adds per second", ylabel="SI-SDR on dev, dB")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        return figure

    def point(self, rung: str, depth: int) -> tuple[float, float]:
        macs = int(self.found[rung, depth][0]["macs_per_s"]) / 1e6
        return macs, self.column(rung, depth, "SI-SDR").mean()


def collect(runs: Path) -> None:
    """Add complete runs to what was collected before, and make tables and figure of all."""
    earlier = read_rows(KEPT) if KEPT.is_file() else []
    table = []
    for run in runs_of_question():
        if (runs / run.name / SCORES).is_file():
            table += [{"rung": run.rung, **row} for row in read_rows(runs / run.name / SCORES)]
        else:
            table += [row for row in earlier if row["rung"] == run.rung]
    write_rows(KEPT, table)
    scores = Scores(table)
    tables = {"depths": scores.table, "differences": scores.differences}
    fill(PAGE, {name: lambda family, table=table: scores.once_there(family, table) for name, table in tables.items()})
    matplotlib.use("agg")
    with atomic_path(FIGURE) as path:
        scores.figure().savefig(path, dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, places in (("score", ("corpus", "runs")), ("collect", ("runs",))):
        one = verbs.add_parser(verb)
        for place in places:
            one.add_argument(place, type=Path)
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    {"score": score, "collect": collect}[given.pop("verb")](*given.values())


if __name__ == "__main__":
    main()
