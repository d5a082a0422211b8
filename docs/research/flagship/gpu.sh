#!/bin/bash
# One leg of training on a machine with a GPU and without a network; docs/research/flagship/gpu.md explains it.
#
#     bash docs/research/flagship/gpu.sh RECIPE [MINUTES] [train options, such as --init base]
#
# Run in the root of the checkout. Carried along, in the folder .gpu/ (prepare.sh fills it):
#     .gpu/wheels/         packages that the machine lacks
#     .gpu/pack*/          what `deepnmf pack` wrote, joined where there are several
#     .gpu/run-NAME/       the run to go on with, NAME being the recipe's; without it a new one begins
# The run comes back in $OUT/run-NAME/ (default: out/): weights, resume point, history and log. Nothing else is written.
set -euo pipefail
recipe=$1 minutes=${2:-8}
shift $(($# < 2 ? $# : 2))
carried=${GPU_CARRIED:-.gpu} out=${OUT:-out} name=$(basename "$recipe" .toml) python=${PYTHON:-python3}
run=$out/run-$name
mkdir -p "$run"

# Wheels are archives of what is imported: no pip, no virtual environment. What the machine has comes after them.
site=$(mktemp -d)
for wheel in "$carried"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$site"
done
export PYTHONPATH=$PWD:$site PYTHONUNBUFFERED=1
export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=${TORCH_ALLOW_TF32_CUBLAS_OVERRIDE-1}  # products of single precision may be in TF32

packs=("$carried"/pack*)
pack=${packs[0]}
if ((${#packs[@]} > 1)); then
    pack=$site/packs
    "$python" docs/research/flagship/join_packs.py "$pack" "${packs[@]}"
fi

resume=()
if [ -f "$carried/run-$name/resume.safetensors" ]; then
    cp "$carried/run-$name/"{resume,best}.safetensors "$run/"
    resume=(--resume)
fi
cpus=$(env -u OMP_NUM_THREADS nproc)  # nproc heeds that variable
workers=$((cpus > 1 ? cpus - 1 : 1))
nvidia-smi -L || echo "no GPU"
"$python" -m deepnmf_cli train "$recipe" --pack "$pack" --minutes "$minutes" --workers "$workers" -o "$run" \
    "${resume[@]}" "$@" 2>&1 | tee "$run/log-$(date +%s).txt"
