#!/bin/bash
# Runs of plan.toml on a machine with a GPU and without a network, several at a time; docs/research/flagship/gpu.md says how it is prepared.
#
#     bash docs/research/descent/gpu.sh [MINUTES] [NAME...]
#
# NAME is a recipe of the plan or a run; all where none is named. What is complete comes back in $OUT/descent.tar.*, pieces of 15 MB, and
# is not repeated where they are carried along in .gpu/. Unpack them by `cat descent.tar.* | tar -x -C RUNS` for `experiment.py collect`.
set -euo pipefail
minutes=${1:-8} lanes=${LANES:-4}
shift $(($# < 1 ? $# : 1))
. "$(dirname "$0")/../flagship/carried.sh"
runs=$(mktemp -d)
if [ -f "$carried/descent.tar.aa" ]; then
    cat "$carried"/descent.tar.* | tar -x -C "$runs"
fi
workers=$((cpus > lanes ? cpus / lanes : 1))
for ((lane = 1; lane <= lanes; lane++)); do
    "$python" docs/research/experiment.py train docs/research/descent/plan.toml "$pack" "$runs" "$@" \
        --device "${DEVICE:-cuda}" --workers "$workers" --minutes "$minutes" > "$out/lane-$lane.txt" 2>&1 &
done
wait
tar -c -C "$runs" --exclude cache --exclude '*.lock' --exclude resume.safetensors --exclude last.safetensors . | split -b 15MB - "$out/descent.tar."
tail -n 3 "$out"/lane-*.txt
