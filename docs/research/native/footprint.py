"""What models in C need of a microcontroller: flash, RAM, stack and instructions, on a Cortex-M7 in QEMU and on x86-64.

    apt install gcc gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
    python docs/research/native/footprint.py OUT [--models tiny base]

Each model is exported in float32 and int8 and linked with probe.c. Arrays and code are sections of the object file; the
image is the flash of a program that does nothing else, with functions of newlib (sine, cosine, power, memory). RAM is
the one block that deepnmf_create takes, for one channel at 16 kHz. The stack is painted. QEMU knows instructions, not
cycles. Prints Markdown.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
M7 = ["-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard", "-mthumb"]
ARM = ["arm-none-eabi-gcc", *M7, "-O2", "-std=gnu99", "-ffunction-sections", "-fdata-sections"]
LINK = ["-Wl,--gc-sections,-u,vectors,--section-start=.vectors=0,-Tdata=0x20000000"]
QEMU = ["qemu-system-arm", "-M", "mps2-an500", "-nographic", "-icount", "shift=0", "-semihosting-config"]
QEMU += ["enable=on,target=native", "-kernel"]
COLUMNS = (
    "model",
    "weights",
    "arrays",
    "code",
    "image",
    "RAM",
    "stack of create",
    "of process",
    "instructions a frame",
)
COLUMNS += ("x86-64: RAM", "stack of create", "of process")


def printed(command: list[str | Path], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def sections(program: str, folder: Path) -> dict[str, int]:
    """Bytes of all sections of a file, by the first part of their names."""
    found: dict[str, int] = {}
    for line in printed(["arm-none-eabi-size", "-A", program], folder).splitlines():
        name, *numbers = line.split() or [""]
        if name.startswith(".") and numbers:
            kind = "." + name.split(".")[1]
            found[kind] = found.get(kind, 0) + int(numbers[0])
    return found


def row(model: str, weights: str, folder: Path) -> list[str]:
    export = ["export", model, "--format", "c", "--weights", weights, "-o", str(folder), "--overwrite", "-q"]
    subprocess.run([sys.executable, "-m", "deepnmf_cli", *export], check=True)
    probe, wrap = HERE / "probe.c", "-Wl,--wrap=calloc"
    printed([*ARM, "-c", "deepnmf.c"], folder)
    printed([*ARM, *LINK, "-I.", "-DBARE", "--specs=nosys.specs", probe, "deepnmf.o", "-lm", "-o", "bare.elf"], folder)
    printed([*ARM, *LINK, wrap, "-I.", "--specs=rdimon.specs", probe, "deepnmf.o", "-lm", "-o", "probe.elf"], folder)
    printed(["gcc", "-O3", "-std=gnu99", wrap, "-I.", probe, "deepnmf.c", "-lm", "-o", "probe"], folder)
    own, image = sections("deepnmf.o", folder), sections("bare.elf", folder)
    flash = sum(image.get(kind, 0) for kind in (".vectors", ".text", ".rodata", ".data", ".init", ".fini", ".ARM"))
    ram, create, process, instructions, total = printed([*QEMU, "probe.elf"], folder).split()
    native = printed(["./probe"], folder).split()
    if abs(float(total) / float(native[-1]) - 1) > 1e-4:
        raise SystemExit(f"{model}, {weights}: a sum of {total} on the Cortex-M7, and {native[-1]} here")
    bytes_of = [own[".rodata"], own[".text"], flash, *map(int, (ram, create, process, instructions, *native[:3]))]
    return [model, weights, *(f"{number:,}" for number in bytes_of)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--models", nargs="+", default=["tiny", "base"])
    given = arguments.parse_args()
    for program in (ARM[0], QEMU[0], "gcc"):
        print(printed([program, "--version"], Path()).partition("\n")[0])
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for model in given.models:
        for weights in ("float32", "int8"):
            print(f"| {' | '.join(row(model, weights, given.out.resolve() / f'{model}-{weights}'))} |", flush=True)


if __name__ == "__main__":
    main()
