"""Figures of index.md, from the tables that descent.py and glow.py wrote."""

from pathlib import Path

from descent import by_network, read
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#777777", "#b2443c", "#2f6f9f", "#d08b2c", "#4c8f57", "#7d5a9c", "#222222", "#c06aa0", "#4fb3bf", "#9a7b4f")


def draw_all(folder: Path) -> None:
    """Write layers.png, robustness.png and multipliers.png, and print the table of index.md."""
    print(table(folder))
    layers(folder).savefig(folder / "layers.png", dpi=110)
    robustness(folder).savefig(folder / "robustness.png", dpi=110)
    multipliers(folder).savefig(folder / "multipliers.png", dpi=110)


def table(folder: Path) -> str:
    """A row for each network: distances, the share of inputs that descend in all layers, distances under noise."""
    layers, noise, moved = (dict(by_network(read(folder / f"{name}.csv"))) for name in ("layers", "noise", "perturbed"))
    lines = [
        "| network | layer 5 | layer 10 | descend in all layers | noise .3 | noise 1 | input .3 |",
        "|---" * 7 + "|",
    ]
    for name, rows in layers.items():
        cells = [
            rows[5]["distance"],
            rows[10]["distance"],
            f"{float(rows[10]['descend_so_far']):.1%}".replace("%", " %"),
        ]
        cells += [row["distance"] for size in (0.3, 1.0) for row in noise[name] if float(row["noise"]) == size]
        cells += [row["distance"] for row in moved.get(name, []) if float(row["perturbation"]) == 0.3]
        lines.append(f"| {name} | {' | '.join(c if ' ' in c else f'{float(c):.3f}' for c in cells)} |")
    return "\n".join(lines)


def shown(folder: Path, table: str, start: str) -> list[tuple[str, list[dict[str, str]]]]:
    """ISTA and the networks of one start."""
    rows = by_network(read(folder / f"{table}.csv"))
    return [
        (name.partition(", ")[2] or name, found) for name, found in rows if name == "ISTA" or name.startswith(start)
    ]


def lines(axes: Axes, folder: Path, table: str, start: str, x: str, y: str) -> None:
    for colour, (name, rows) in zip(COLOURS * 2, shown(folder, table, start)):
        pairs = [(float(row[x]), float(row[y])) for row in rows if row[y] != ""]
        axes.plot(*zip(*pairs), marker=".", color=colour, label=name, ls="--" if name == "ISTA" else "-")
    axes.grid(alpha=0.3)


def starts(folder: Path) -> list[str]:
    names = [name for name, _ in by_network(read(folder / "layers.csv"))]
    return [start for start in ("random start", "ISTA start") if any(name.startswith(start) for name in names)]


def layers(folder: Path) -> Figure:
    """Distance, objective and the share of inputs that descend, layer by layer; a row for each start."""
    panels = (
        ("distance", "distance to the target"),
        ("excess", "objective above its minimum"),
        ("descend", "share that descends"),
    )
    rows = starts(folder)
    figure = Figure(figsize=(12, 3.6 * len(rows)), layout="constrained")
    for row, start in zip(figure.subplots(len(rows), 3, squeeze=False), rows):
        for axes, (column, label) in zip(row, panels):
            lines(axes, folder, "layers", start, "layer", column)
            axes.set(xlabel="layer", ylabel=label, title=start if axes is row[0] else None)
        row[0].set_ylim(0, 2)
        row[1].set_yscale("log")
        row[0].legend(fontsize=7)
    return figure


def robustness(folder: Path) -> Figure:
    """Final distance over noise between layers, and over noise on the input."""
    rows = starts(folder)
    figure = Figure(figsize=(9, 3.6 * len(rows)), layout="constrained")
    for (left, right), start in zip(figure.subplots(len(rows), 2, squeeze=False), rows):
        lines(left, folder, "noise", start, "noise", "distance")
        left.set_xscale("symlog", linthresh=0.03)
        left.set_yscale("log")
        left.set(xlabel="noise between layers, of the targets' rms", ylabel="final distance", title=start)
        lines(right, folder, "perturbed", start, "perturbation", "distance")
        right.set(xlabel="noise on the input", ylabel="final distance to the target of that input")
        right.set_ylim(0)
        left.legend(fontsize=7)
    return figure


def multipliers(folder: Path) -> Figure:
    """Multipliers over steps, a panel for each network that has some."""
    found = list(by_network(read(folder / "multipliers.csv")))
    lines, columns = -(-len(found) // 4), min(4, len(found))
    figure = Figure(figsize=(4 * columns, 3.2 * lines), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(lines, columns, squeeze=False).flat, found):
        for layer in sorted({int(row["layer"]) for row in rows}):
            own = [row for row in rows if int(row["layer"]) == layer]
            axes.plot([int(r["step"]) for r in own], [float(r["multiplier"]) for r in own], label=f"layer {layer}")
        axes.set(xlabel="step", ylabel="multiplier", title=name)
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, ncols=2)
    return figure


def draw_inpainting(folder: Path) -> None:
    """Write inpainting.png, and print the table of index.md."""
    print(inpainting_table(folder))
    inpainting(folder).savefig(folder / "inpainting.png", dpi=110)


def inpainting_table(folder: Path) -> str:
    """A row for each network: PSNR after each layer, the share that descends in all, PSNR under noise."""
    noise = dict(by_network(read(folder / "noise.csv")))
    out = []
    for name, rows in by_network(read(folder / "layers.csv")):
        sizes = [row["noise"] for row in noise[name] if float(row["noise"])]
        if not out:
            heads = [f"layer {row['layer']}" for row in rows[1:]] + ["descend in all"] + [f"noise {n}" for n in sizes]
            out = [f"| network | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        cells = [f"{float(row['psnr_db']):.1f}" for row in rows[1:]]
        cells += [f"{float(rows[-1]['descend_so_far']):.1%}".replace("%", " %")]
        cells += [f"{float(row['psnr_db']):.1f}" for row in noise[name] if float(row["noise"])]
        out.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(out)


def inpainting(folder: Path) -> Figure:
    """PSNR in the hole and the objective, layer by layer, and PSNR over noise between layers."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = (
        ("layers", "layer", "psnr_db", "PSNR in the hole [dB]"),
        ("layers", "layer", "objective", "objective, median"),
        ("noise", "noise", "psnr_db", "PSNR in the hole [dB]"),
    )
    for axes, (table, x, y, label) in zip(figure.subplots(1, 3), panels):
        for colour, (name, rows) in zip(COLOURS, by_network(read(folder / f"{table}.csv"))):
            axes.plot([float(r[x]) for r in rows], [float(r[y]) for r in rows], marker=".", color=colour, label=name)
        axes.set(xlabel="norm of the noise between layers" if x == "noise" else x, ylabel=label)
        axes.grid(alpha=0.3)
        if y == "psnr_db":
            for method, style in zip(read(folder / "fixed.csv"), ("--", ":", "-.")):
                axes.axhline(float(method["psnr_db"]), color="black", lw=0.8, ls=style, label=method["method"])
    axes.legend(fontsize=7)
    return figure
