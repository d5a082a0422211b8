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
. "$(dirname "$0")/carried.sh"
name=$(basename "$recipe" .toml)
run=$out/run-$name
mkdir -p "$run"

resume=()
if [ -f "$carried/run-$name/resume.safetensors" ]; then
    cp "$carried/run-$name/"{resume,best}.safetensors "$run/"
    resume=(--resume)
fi
workers=$((cpus > 1 ? cpus - 1 : 1))
"$python" -m deepnmf_cli train "$recipe" --pack "$pack" --minutes "$minutes" --workers "$workers" -o "$run" \
    "${resume[@]}" "$@" 2>&1 | tee "$run/log-$(date +%s).txt"
