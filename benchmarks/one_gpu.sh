#!/bin/sh
# The two long trainings on one GPU: `best` as it is, and `nine_hyperparameters` for two minutes with batches of
# 262,144 tokens, as its record's own script was measured.
#
#     sh benchmarks/one_gpu.sh TEXT OUT [BEST…]
#
# TEXT is a folder with train-*.jsonl.xz and val.jsonl.xz. BEST are changes of `best`, such as
# --training.seed 2; NINE holds those of the other. Finished runs lie in OUT/best and OUT/nine; what took how
# long is in OUT/times.
set -eu
text=$1 out=$2
shift 2
python=${PYTHON:-python}
bytegolf() {
    $python -u -m bytegolf "$@"
}
step() {
    name=$1 began=$(date +%s)
    shift
    "$@" >"$out/$name.log" 2>&1 || echo "$name failed, see $out/$name.log" >>"$out/times"
    echo "$name $(($(date +%s) - began)) s" >>"$out/times"
}
mkdir -p "$out"
on_text="--text.sources $(echo "$text"/train-*.jsonl.xz) --text.validation $text/val.jsonl.xz"
# shellcheck disable=SC2086  # several words each
step best bytegolf train best $on_text --folder "$out/best" "$@"
step prove bytegolf prove "$out/best/artifact.bg"
step export bytegolf export challenge "$out/best"
step script $python "$out/best/challenge/train_gpt.py" --evaluate
# shellcheck disable=SC2086
step nine bytegolf train nine_hyperparameters $on_text --folder "$out/nine" \
    --training.budget.seconds "${NINE_SECONDS:-120}" --training.rows 128 --training.forward_rows 64 \
    --evaluation.adaptation none ${NINE:-}
cat "$out/times"
