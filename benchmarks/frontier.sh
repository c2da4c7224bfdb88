#!/bin/sh
# The study of frontier.py, a seed on each GPU: the same changes in the same order at the same time. On one GPU
# the seeds follow one another.
#
#     sh benchmarks/frontier.sh TEXT OUT [SECONDS [CHANGE…]]
#
# TEXT is a folder with train-*.jsonl.xz and val.jsonl.xz. The text is tokenized first, once for all. SEEDS are
# the seeds (1 and 2), GPUS the number of GPUs. OUT/seed1.log and so on say how far each is; finished runs lie
# beside them, and `python benchmarks/frontier.py --table OUT` makes their table at any time.
set -eu
text=$1 out=$2 seconds=${3:-90}
[ $# -gt 3 ] && shift 3 || set -- none windows tied-globals loop more-passes parcae-truncated sparse-gate xielu-learned \
    gram caseops gptq-4 rotated-4 corrected-4 corrected-all-4 rotated-corrected-4 gptq-5 rotated-5 \
    corrected-5 corrected-all-5 rotated-corrected-5 out-gate full-gate xielu-published
python=${PYTHON:-python}
study() {
    $python -u benchmarks/frontier.py "$@" --text "$text"/train-*.jsonl.xz --validation "$text/val.jsonl.xz" \
        --seconds "$seconds" --out "$out" --prepared "$out/data"
}
mkdir -p "$out"
# Two kinds of tokens: marked capitals have their own, and all other changes share one.
study none --prepare >"$out/none.log" 2>&1 &
case " $* " in *" caseops "*) study caseops --prepare >"$out/caseops.log" 2>&1 & esac
wait
# Two processes whose threads together outnumber the cores wait for one another: rounding took 30 s, not 0.2.
gpus=${GPUS:-$(nvidia-smi -L | wc -l)} gpu=0
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) / (2 * gpus) + 1))}
for seed in ${SEEDS:-1 2}; do
    CUDA_VISIBLE_DEVICES=$gpu study "$@" --seed "$seed" >"$out/seed$seed.log" 2>&1 &
    gpu=$((gpu + 1))
    [ $gpu -lt "$gpus" ] || { wait; gpu=0; }
done
wait
study --table "$out"
