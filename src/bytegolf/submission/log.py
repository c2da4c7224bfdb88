"""A run's record as a log that people and the challenge's reviewers read: train.log."""

from collections.abc import Iterator, Mapping
from typing import Any

from bytegolf.report.run_folder import Run, number, rows

#: Steps that are logged one by one, and about how many more lines follow them.
_FIRST_STEPS, _LINES = 10, 400


def training_log(run: Run) -> str:
    """Machine, progress, sizes and scores, a line each; losses are in nats per token.

    Of a long training only every so-manieth step is shown; metrics.jsonl of the run has all of them.
    """
    return "\n".join([*_head(run), *_progress(run), *_end(run)]) + "\n"


def _head(run: Run) -> Iterator[str]:
    result, machine = run.result, run.result["machine"]
    yield f"recipe:{result['recipe']} seed:{result['seed']} date:{result['date']}"
    yield f"bytegolf:{machine['package_version']} python:{machine['python']} torch:{machine['torch']}"
    yield f"hardware:{machine['gpu'] or machine['cpu']} cores:{machine['cores']} threads:{machine['threads']}"
    data = result["data"]
    for split in ("training", "validation"):
        counts = " ".join(f"{what}:{data[f'{split}_{what}']}" for what in ("documents", "tokens", "bytes"))
        yield f"{split} {counts}"
    yield f"tokenizer:{data['tokenizer']} vocabulary:{data['vocabulary']} lossless:{data['lossless']}"
    yield f"model_params:{result['training']['parameters']}"


def _progress(run: Run) -> Iterator[str]:
    steps = [step for event in run.events("train") if (step := number(event, "step")) is not None]
    last = int(max(steps, default=0))
    every = max(1, last // _LINES)
    for event in run.metrics:
        step = int(number(event, "step") or 0)
        if event.get("event") != "train":
            yield _other(event, step)
        elif step <= _FIRST_STEPS or step % every == 0 or step == last:
            milliseconds = 1000 * (number(event, "seconds") or 0.0)
            yield (
                f"step:{step}/{last} train_loss:{number(event, 'loss') or 0.0:.4f} "
                f"train_time:{milliseconds:.0f}ms step_avg:{milliseconds / max(step, 1):.2f}ms "
                f"tok/s:{number(event, 'tokens_per_second') or 0.0:.0f}"
            )


def _other(event: Mapping[str, Any], step: int) -> str:
    milliseconds = 1000 * (number(event, "seconds") or 0.0)
    kind = str(event.get("event"))
    if kind == "validation":
        loss, bits = number(event, "loss") or 0.0, number(event, "bits_per_byte") or 0.0
        return f"step:{step} val_loss:{loss:.4f} val_bpb:{bits:.4f} train_time:{milliseconds:.0f}ms"
    name = f" {event['name']}" if "name" in event else ""
    return f"step:{step} {kind}{name} train_time:{milliseconds:.0f}ms"


def _end(run: Run) -> Iterator[str]:
    result = run.result
    training, artifact = result["training"], result["artifact"]
    yield (
        f"trained steps:{training['steps']} tokens:{training['tokens']} "
        f"train_time:{1000 * training['seconds']:.0f}ms tok/s:{training['tokens_per_second']:.0f}"
    )
    for row in rows(result, "plan"):
        bits = "float" if row.get("bits") is None else f"{row['bits']} bits"
        yield f"weights {row.get('role')}: {row.get('parameters')} in {bits}, {row.get('bytes')} bytes"
    yield f"artifact:{artifact['bytes']} bytes sha256:{artifact['sha256']}"
    for row in rows(result, "scores"):
        yield (
            f"{row['model']} {row['plan']} val_loss:{row['nats_per_token']:.8f} "
            f"val_bpb:{row['bits_per_byte']:.8f} eval_time:{1000 * row['seconds']:.0f}ms"
        )
