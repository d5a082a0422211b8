"""Compile an exported model for other processors, run what runs here, and compare the outputs with the native one.

    pip install ziglang wasmtime                          (one folder of their own is enough: --python)
    apt install gcc qemu-user
    python docs/research/native/cross.py base OUT [--python ENVIRONMENT/bin/python] [--weights int8]

`deepnmf export MODEL --format c` writes the library. For every target, `zig cc` compiles it with
docs/examples/c/filter.c, and the program filters the demo recording, twice over (15 s). The native program is
that of gcc. Prints Markdown: sizes of the programs without symbols, CPU seconds of whole processes, and how far the
16-bit outputs are apart. What stands in OUT/rows.json is not measured again.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[3]
REPEATED = 2
FLAGS = ["-std=c99", "-O3", "-s"]
COLUMNS = ("target", "options", "program, kB", "ran by", "largest difference", "samples that differ", "CPU s")
WASM = "wasmtime"

TARGETS = [
    ("x86_64-linux-musl", [], ""),
    ("x86_64-linux-musl", ["-DDEEPNMF_PLAIN"], ""),
    ("x86_64-linux-musl", ["-DDEEPNMF_SCALAR"], ""),
    ("wasm32-wasi", [], WASM),
    ("wasm32-wasi", ["-msimd128"], WASM),
    ("riscv64-linux-musl", [], "qemu-riscv64"),
    ("aarch64-linux-musl", [], "qemu-aarch64"),
    ("arm-linux-musleabihf", [], "qemu-arm"),
    ("aarch64-macos", [], None),
    ("x86_64-windows-gnu", [], None),
    ("arm-linux-musleabihf", ["-mcpu=cortex_a7"], "qemu-arm"),
]
"""Target of zig, options, and the program that runs the result: "" for none, None where nothing here does."""

RUNNER = """
import sys, time, wasmtime
engine, begin = wasmtime.Engine(), time.process_time()
module = wasmtime.Module.from_file(engine, sys.argv[1])
compiled = time.process_time()
store, linker, wasi = wasmtime.Store(engine), wasmtime.Linker(engine), wasmtime.WasiConfig()
wasi.argv = ["filter", *sys.argv[2:]]
wasi.preopen_dir(".", ".")
store.set_wasi(wasi)
linker.define_wasi()
start = linker.instantiate(store, module).exports(store)["_start"]
try:
    start(store)
except wasmtime.ExitTrap as end:
    if end.code:
        raise
print(f"({compiled - begin:.2f} to compile, {time.process_time() - compiled:.2f} to run)")
"""


def cpu_s(command: list[str], folder: Path) -> tuple[float, str]:
    """CPU seconds of a program, and what it printed."""
    with open(folder / "printed.txt", "w+") as printed:
        process = subprocess.Popen(command, cwd=folder, stdout=printed)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command[0]}: exit code {process.returncode}")
        printed.seek(0)
        return used.ru_utime + used.ru_stime, printed.read().strip()


def line_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def measure(target: str, options: list[str], by: str | None, given: argparse.Namespace) -> list[str]:
    """Compile and run for one target: the row of the table, without what native.wav lies in."""
    folder, python = given.out, given.python
    program = folder / "-".join(["filter", target, *(option.strip("-").replace("=", "-") for option in options)])
    command = [python, "-m", "ziglang", "cc", "-target", target, *FLAGS, *options, *sources(folder), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    name = [target, " ".join(options)]
    if done.returncode:
        print(f"{target}: {done.stderr}", file=sys.stderr)
        return [*name, "does not compile", "", "", "", ""]
    name.append(f"{program.stat().st_size / 1000:.0f}")
    if by is None or (by not in ("", WASM) and not shutil.which(by)):
        return [*name, "not run", "", "", ""]
    wasm_python = given.wasm_python or python
    run = {"": [str(program)], WASM: [wasm_python, "-c", RUNNER, program.name]}.get(by, [by, str(program)])
    seconds, printed = cpu_s([*run, "noisy.wav", "found.wav"], folder)
    found, expected = (
        soundfile.read(folder / file, dtype="int16")[0].astype(int) for file in ("found.wav", "native.wav")
    )
    if found.shape != expected.shape:
        raise SystemExit(f"{target}: {found.shape} samples; expected {expected.shape}")
    apart = abs(found - expected)
    version = "from importlib.metadata import version; print('wasmtime', version('wasmtime'))"
    runner = line_of([wasm_python, "-c", version] if by == WASM else [by, "--version"]) if by else "itself"
    return [*name, runner, str(apart.max()), str(np.count_nonzero(apart)), f"{seconds:.2f} {printed}".strip()]


def sources(folder: Path) -> list[str]:
    return [f"-I{folder}", str(ROOT / "docs/examples/c/filter.c"), str(folder / "deepnmf.c"), "-lm"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model")
    arguments.add_argument("out", type=lambda path: Path(path).resolve())
    arguments.add_argument("--python", default=sys.executable, help="Python with ziglang")
    arguments.add_argument("--wasm-python", default="", help="Python with wasmtime, if another one")
    arguments.add_argument("--weights", choices=["float32", "int8"], default="float32")
    given = arguments.parse_args()
    folder = given.out
    export = ["export", given.model, "--format", "c", "--weights", given.weights, "-o", str(folder), "--overwrite"]
    subprocess.run([sys.executable, "-m", "deepnmf_cli", *export], check=True)
    samples, rate_hz = soundfile.read(ROOT / "data/demo/noisy.wav", dtype="int16")
    soundfile.write(folder / "noisy.wav", np.tile(samples, REPEATED), rate_hz, "PCM_16")
    subprocess.run(["gcc", *FLAGS, *sources(folder), "-o", str(folder / "native")], check=True)
    native_s, _ = cpu_s(["./native", "noisy.wav", "native.wav"], folder)
    size = (folder / "native").stat().st_size

    kept, digest = folder / "rows.json", hashlib.sha256()
    for file in ("deepnmf.c", "deepnmf_model.h"):
        digest.update((folder / file).read_bytes())
    found = json.loads(kept.read_text()) if kept.exists() else {}
    rows = [["this machine", "", f"{size / 1000:.0f}", "itself", "", "", f"{native_s:.2f}"]]
    for target, options, by in TARGETS:
        key = " ".join([digest.hexdigest()[:16], target, *options])
        if key not in found:
            found[key] = measure(target, options, by, given)
            kept.write_text(json.dumps(found, indent=1))
        rows.append(found[key])

    zig = line_of([given.python, "-m", "ziglang", "version"])
    seconds = REPEATED * len(samples) / rate_hz
    print(f"{given.model}, {given.weights}: {seconds:.0f} s at {rate_hz} Hz on {platform.machine()}")
    print(f"{line_of(['gcc', '--version'])}; zig {zig}; {' '.join(FLAGS)}; SHA-256 {digest.hexdigest()[:16]}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
