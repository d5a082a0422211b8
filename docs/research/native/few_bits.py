"""What weights of fewer bits cost: SI-SDR compared with weights in float32, and sizes of the graphs.

    python docs/research/native/few_bits.py CLEAN NOISY [--every 3] [MODEL ...]

CLEAN and NOISY are folders of equal names at 16 kHz; every n-th file is used. Graphs run in ONNX Runtime, libraries
in C are compiled with `cc -O3`. What the arrays of the latter take is in the table of footprint.py.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli import model_file, zoo
from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import pair_folders
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import ModelError, UsageError
from deepnmf_cli.export import c_library
from deepnmf_cli.exported import OnnxBackend
from deepnmf_cli.scoring.sdr import si_sdr

RATE_HZ = 16000
EXAMPLE = Path(__file__).parents[2] / "examples" / "c" / "filter.c"


def graph(name: str, weights: str, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return what enhances by an ONNX file. Raises ModelError for weights that change the masks too much."""
    zoo.export(name, folder / "graph.onnx", weights=weights)
    enhancer = Enhancer(OnnxBackend(folder / "graph.onnx"), model_file.read(zoo.find(name)).front_end)
    return lambda samples: enhancer.enhance(samples[None], RATE_HZ)[0]


def library(name: str, weights: str, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return what enhances by a library in C, in 16 bits."""
    network, file = zoo.load(name)
    c_library.write(network, file.front_end, name, folder, weights)
    program, noisy, clean = folder / "filter", folder / "noisy.wav", folder / "clean.wav"
    subprocess.run(["cc", "-O3", f"-I{folder}", EXAMPLE, folder / "deepnmf.c", "-lm", "-o", program], check=True)

    def enhance(samples: np.ndarray) -> np.ndarray:
        soundfile.write(noisy, samples, RATE_HZ, "PCM_16")
        subprocess.run([program, noisy, clean], check=True)
        return soundfile.read(clean, dtype="float32")[0]

    return enhance


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("clean")
    arguments.add_argument("noisy")
    arguments.add_argument("models", nargs="*", default=["base", "tiny"])
    arguments.add_argument("--every", type=int, default=3)
    given = arguments.parse_args()
    pairs = [[decode(p, RATE_HZ) for p in pair] for pair in pair_folders(given.clean, given.noisy)[:: given.every]]
    print(f"{len(pairs)} files\n\n| model | format | weights | kB | SI-SDR less that of float32, dB | at worst |")
    print("|---|---|---|---|---|---|")
    for name in given.models:
        for made, kinds in ((graph, ("float32", "float16", "int8")), (library, ("float32", "int8"))):
            scores: dict[str, np.ndarray] = {}
            for weights in kinds:
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        enhance = made(name, weights, Path(folder))
                    except (ModelError, UsageError) as error:
                        print(f"| {name} | {made.__name__} | {weights} | {error} | | |", flush=True)
                        continue
                    scores[weights] = np.array([si_sdr(clean, enhance(noisy)) for clean, noisy in pairs])
                    sizes = [path.stat().st_size for path in Path(folder).glob("*.onnx")]
                lost = scores[weights] - scores["float32"]
                size = f"{sizes[0] / 1000:.0f}" if sizes else ""
                row = (name, made.__name__, weights, size, f"{lost.mean():+.3f}", f"{lost.min():+.2f}")
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
