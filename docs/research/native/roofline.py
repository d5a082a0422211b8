"""How far the C library is from what one core can do: python docs/research/native/roofline.py [MODEL]

Needs gcc and an x86-64 processor with AVX2. Exports the model, compiles roofline.c against it, runs that on one core,
and prints a row for each part of a frame of 16 ms at 16 kHz: medians of 41 rounds of 50 calls, hot, CPU time. Floors:

    products     multiply-adds of the network over those a second that sums on registers reach in the same run
    answers      tanh and sigmoid of all spins: 40 operations for each vector of eight, counted in the source, over the
                 same peak, which is two a cycle
    transforms   2.5 N log2 N operations for each of two transforms of N real samples, half of them fused at best
    weights      reading the model's weights once, measured

The floor of the frame is the sum of the first three, as weights are read while products are made.
"""

import argparse
import math
import platform
import subprocess
import tempfile
from pathlib import Path

from deepnmf_cli import zoo
from deepnmf_cli.export import c_library
from deepnmf_cli.native.library import FLAGS

LANES, ANSWER_OPERATIONS = 8, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="base")
    options = parser.parse_args()
    network, file = zoo.load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        c_library.write(network, file.front_end, options.model, Path(folder))
        weights = sum(p.numel() for p in network.parameters())
        program = Path(folder, "roofline")
        flags = [flag for flag in FLAGS if flag not in ("-shared", "-fPIC", "-DDEEPNMF_LIBRARY")]
        source = str(Path(__file__).with_suffix(".c"))
        command = ["gcc", *flags, f"-DWEIGHTS={weights}", f"-I{folder}", source, "-lm", "-o", str(program)]
        subprocess.run(command, check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    found = {name: (float(took), float(work)) for name, took, work in map(str.split, lines)}
    peak = found["peak"][1] / found["peak"][0]  # multiply-adds in a nanosecond
    size = found["transforms"][1]
    floors = {
        "products": network.macs_per_frame() / peak,
        "answers": found["answers"][1] * ANSWER_OPERATIONS / peak,
        "transforms": 2 * 2.5 * size * math.log2(size) / 2 / peak,
    }
    print(f"{options.model}, {platform.machine()}, {peak:.1f} multiply-adds a nanosecond\n")
    print("| part of a frame | microseconds | floor | times the floor |\n|---|---|---|---|")
    for name, floor in floors.items():
        print(row(name, found[name][0], floor))
    parts = sum(found[name][0] for name in floors)
    print(row("all else", found["frame"][0] - parts))
    print(row("frame", found["frame"][0], sum(floors.values())))
    print(row("of it the network", found["network"][0]))
    print(row("reading the weights once", found["weights"][0]))


def row(name: str, took: float, floor: float | None = None) -> str:
    end = "| |" if floor is None else f"| {floor / 1000:.2f} | {took / floor:.1f} |"
    return f"| {name} | {took / 1000:.2f} {end}"


if __name__ == "__main__":
    main()
