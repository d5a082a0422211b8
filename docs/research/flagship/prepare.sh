#!/bin/bash
# What a leg on a GPU carries along (gpu.sh): packages and a pack, into .gpu/ of the checkout, which git ignores.
#
#     bash docs/research/flagship/prepare.sh PACK [RUN...]
#
# PACK is a folder that `deepnmf pack` wrote; each RUN a run folder named run-NAME, to go on with. Needs pip and a package
# index. The wheels are for Python 3.12 on Linux with x86-64 processors; the machine must have torch, NumPy and SciPy.
set -euo pipefail
pack=$1
shift
mkdir -p .gpu/wheels
platforms=(manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64)
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]/#/--platform=}" -d .gpu/wheels cffi click pycparser safetensors soundfile soxr tqdm
rm -rf .gpu/pack
cp -r "$pack" .gpu/pack
for run in "$@"; do
    mkdir -p ".gpu/$(basename "$run")"
    cp "$run/"{resume,best}.safetensors ".gpu/$(basename "$run")/"
done
du -sh .gpu/*
