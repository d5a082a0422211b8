"""What a constant offset costs, if it is left in a network's input and if it is removed, as the program does.

    python docs/research/benchmarks/offset.py CLEAN NOISY [--model base] [--every 10]

CLEAN and NOISY are folders of equal names at 16 kHz; every n-th file is used. SI-SDR ignores an offset of the output.
It is compared with that of the network alone, without an offset in its input.
"""

import argparse
from unittest.mock import patch

import numpy as np

from deepnmf_cli import load_enhancer, streaming
from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import pair_folders
from deepnmf_cli.scoring.sdr import si_sdr
from deepnmf_cli.signal.offset import Offset

RATE_HZ = 16000
OFFSETS = (0.0, 0.005, 0.02, 0.1)


class Ignored(Offset):
    """An offset that stays in the network's input."""

    def remove(self, samples: np.ndarray) -> np.ndarray:
        return samples

    def restore(self, samples: np.ndarray, mask: np.ndarray, mix: float = 1.0) -> np.ndarray:
        return samples


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("clean")
    arguments.add_argument("noisy")
    arguments.add_argument("--model")
    arguments.add_argument("--every", type=int, default=10)
    given = arguments.parse_args()
    enhancer = load_enhancer(given.model, "cpu", "onnx")
    pairs = [[decode(p, RATE_HZ) for p in pair] for pair in pair_folders(given.clean, given.noisy)[:: given.every]]
    scores, passed = {}, {}
    for kind in (Ignored, Offset):
        with patch.object(streaming, "Offset", kind):
            for offset in OFFSETS:
                made = [enhancer.enhance(noisy[None] + np.float32(offset), RATE_HZ)[0] for _, noisy in pairs]
                scores[kind, offset] = np.array([si_sdr(clean, y) for (clean, _), y in zip(pairs, made)])
                passed[kind, offset] = np.array([y.mean() for y in made]) / offset if offset else None
    print(f"{len(pairs)} files\n\n| | {' | '.join(map(str, OFFSETS))} |\n|---|{'---|' * len(OFFSETS)}")
    for kind, row in ((Ignored, "left in the input, mean (worst), dB"), (Offset, "estimated and removed")):
        lost = [scores[kind, offset] - scores[Ignored, 0.0] for offset in OFFSETS]
        print(f"| {row} | {' | '.join(f'{x.mean():+.2f} ({x.min():+.2f})' for x in lost)} |")
        shares = [passed[kind, offset] for offset in OFFSETS[1:]]
        cells = " | ".join(f"{x.mean():.0%}, at most {x.max():.0%}" for x in shares)
        print(f"| share of the offset in the output | | {cells} |")


if __name__ == "__main__":
    main()
