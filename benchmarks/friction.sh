#!/bin/sh
# The study of friction.py on all GPUs of a machine: runs are dealt out one by one, a case's seeds side by side.
#
#     sh benchmarks/friction.sh TEXT OUT [SECONDS [CASE…]]
#
# TEXT is a folder with train-*.jsonl.xz and val.jsonl.xz. The text is tokenized first, once for all GPUs; a
# saved tokenizer is named by TOKENIZER, seeds by SEEDS (1 and 2), the number of GPUs by GPUS. OUT/gpu0.log and
# so on say how far each is; finished runs lie beside them, and `python benchmarks/friction.py --table OUT`
# makes their table at any time. What OUT already holds is passed over, so that the same words go on with a
# study that was cut short, once the folders of unfinished runs are deleted.
set -eu
text=$1 out=$2 seconds=${3:-120}
[ $# -gt 3 ] && shift 3 || set -- softmax eta-mu-capacity-4 eta-mu mu log-domain softmax-friction softmax-none \
    eta-mu-rotary eta-mu-unnormalized eta-mu-capacity-1 eta-mu-capacity-16 eta-mu-weighted eta-mu-learned \
    mu-capacity-4
python=${PYTHON:-python}
gpus=${GPUS:-$(nvidia-smi -L | wc -l)}
study() {
    # shellcheck disable=SC2086  # several seeds
    $python -u benchmarks/friction.py "$@" --text "$text"/train-*.jsonl.xz --validation "$text/val.jsonl.xz" \
        ${TOKENIZER:+--tokenizer "$TOKENIZER"} --seconds "$seconds" --seeds ${SEEDS:-1 2} --out "$out"
}
mkdir -p "$out"
study softmax --prepare >"$out/prepare.log" 2>&1
# Processes whose threads together outnumber the cores wait for one another.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) / (2 * gpus) + 1))}
gpu=0
while [ $gpu -lt "$gpus" ]; do
    CUDA_VISIBLE_DEVICES=$gpu study "$@" --share "$gpu/$gpus" --missing >"$out/gpu$gpu.log" 2>&1 &
    gpu=$((gpu + 1))
done
wait
$python benchmarks/friction.py --table "$out"
