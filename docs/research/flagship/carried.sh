# What was carried to a machine with a GPU and without a network, for gpu.sh and others to source: sets carried, out, python, pack, cpus.
carried=${GPU_CARRIED:-.gpu} out=${OUT:-out} python=${PYTHON:-python3}
mkdir -p "$out"

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

cpus=$(env -u OMP_NUM_THREADS nproc)  # nproc heeds that variable
nvidia-smi -L || echo "no GPU"
