"""README.md of a submission, from what its run recorded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bytegolf.recipe import Recipe
from bytegolf.report.run_folder import rows
from bytegolf.submission.launcher import EVALUATION_NEEDS, TRAINING_NEEDS
from bytegolf.submission.recipe_code import recipe_code

_SIZES = {
    "bytes_code": "`train_gpt.py`: launcher and packed modules",
    "bytes_model": "`artifact.bg` without its tokenizer: weights and recipe",
    "bytes_total": "**counted**",
    "bytes_limit": "allowed",
    "bytes_tokenizer": "not counted: the tokenizer in `artifact.bg`",
    "bytes_artifact": "`artifact.bg` as it lies here",
}


@dataclass(frozen=True)
class Page:
    """What the page is made of. submission: submission.json; plan: the windows of the submitted score."""

    submission: Mapping[str, Any]
    recipe: Recipe
    result: Mapping[str, Any]
    plan: str
    certificate: Any


def readme(page: Page) -> str:
    """The page in Markdown."""
    return "\n".join([*_title(page), *_scores(page), *_sizes(page), *_run(page), *_how(page), *_recipe(page)])


def _title(page: Page) -> Iterator[str]:
    data, result = page.submission, page.result
    yield f"# {data['name']}\n"
    if data["blurb"]:
        yield f"{data['blurb']}\n"
    mean = "" if len(data["seeds"]) == 1 else f", the mean of {len(data['seeds'])} seeds"
    yield (
        f"**{data['val_bpb']:.4f} bits per byte**{mean}: {result['training']['parameters']:,} parameters, "
        f"{data['bytes_total']:,} bytes of code and weights, {result['training']['seconds']:.0f} s of "
        f"training on {data['hardware']}.\n"
    )


def _scores(page: Page) -> Iterator[str]:
    yield "## Scores\n"
    yield "On the held-out text; `float` is the model before compression, and the bold score is submitted.\n"
    body = []
    for row in rows(page.result, "scores"):
        bold = "**" if row["model"] == "artifact" and row["plan"] == page.plan else ""
        body.append(
            (
                row["model"],
                row["plan"],
                f"{bold}{row['bits_per_byte']:.4f}{bold}",
                f"{row['nats_per_token']:.4f}",
                f"{row['tokens']:,}",
                f"{row['bytes']:,}",
                f"{row['seconds']:.1f}",
            )
        )
    yield from _table(("model", "windows", "bits/byte", "nats/token", "tokens", "bytes", "seconds"), body, 2)
    seeds = page.submission["seed_results"]
    if len(seeds) > 1:
        body = [
            (
                seed,
                f"{row['val_bpb']:.4f}",
                f"{row['val_loss']:.4f}",
                f"{row['artifact_bytes']:,}",
                f"{row['steps']:,}",
                f"{row['train_time_s']:.1f}",
            )
            for seed, row in seeds.items()
        ]
        yield from _table(("seed", "bits/byte", "nats/token", "artifact bytes", "steps", "seconds"), body, 1)
        deviation = page.submission["val_bpb_std"]
        yield f"Standard deviation over the seeds: {deviation:.5f} bits per byte.\n"


def _sizes(page: Page) -> Iterator[str]:
    yield "## Sizes\n"
    data = page.submission
    yield from _table(("", "bytes"), [(words, f"{data[name]:,}") for name, words in _SIZES.items()], 1)
    yield (
        "Nothing here is estimated: these are the bytes of the files beside this page. The code can train as "
        f"well; evaluation alone would need {data['bytes_code_evaluation']:,} bytes of it.\n"
    )


def _run(page: Page) -> Iterator[str]:
    yield "## Run\n"
    result = page.result
    training, data, machine = result["training"], result["data"], result["machine"]
    yield from _table(
        ("", ""),
        [
            ("machine", f"{page.submission['hardware']}, {machine['cores']} cores"),
            ("versions", f"Python {machine['python']}, torch {machine['torch']}"),
            (
                "training",
                f"{training['steps']:,} steps, {training['tokens']:,} tokens, {training['seconds']:.1f} s, "
                f"{training['tokens_per_second']:,.0f} tokens/s, seed {result['seed']}",
            ),
            (
                "trained on",
                f"{data['training_bytes']:,} bytes in {data['training_documents']:,} documents, "
                f"{data['training_tokens']:,} tokens",
            ),
            (
                "scored on",
                f"{data['validation_bytes']:,} bytes in {data['validation_documents']:,} documents, "
                f"{data['validation_tokens']:,} tokens, SHA-256 `{data['validation_sha256'][:16]}…`",
            ),
            (
                "tokenizer",
                f"{data['tokenizer']}, {data['vocabulary']:,} ids, "
                f"{'lossless' if data['lossless'] else 'lossy'}",
            ),
        ],
    )
    weights = [
        (
            row["role"],
            "float" if row["bits"] is None else f"{row['bits']}",
            f"{row['parameters']:,}",
            f"{row['bytes']:,}",
        )
        for row in rows(result, "plan")
    ]
    if weights:
        yield from _table(("weights", "bits", "parameters", "bytes"), weights, 1)
    verdicts = rows(page.certificate, "verdicts")
    if verdicts:
        yield "What `bytegolf prove` tested on this artifact:\n"
        yield from _table(
            ("condition", "outcome", ""),
            [(row["condition"], row["outcome"], row["sentence"]) for row in verdicts],
        )


def _how(page: Page) -> Iterator[str]:
    needs = " ".join(EVALUATION_NEEDS)
    more = " ".join(name for name in TRAINING_NEEDS if name not in EVALUATION_NEEDS)
    # The paths of this machine say little on another.
    where = "--text FILES --validation FILES" if page.recipe.text.validation else "--text FILES"
    yield "## Reproduce\n"
    yield (
        f"```sh\npip install {needs}\n"
        f"# score artifact.bg on text files, or on token shards of the challenge\n"
        f"python train_gpt.py {where}\npython train_gpt.py --shards 'fineweb_val_*.bin'\n"
        f"# train again, into run/\npip install {more}\npython train_gpt.py --train {where}\n"
        "# the packed modules as files\npython train_gpt.py --unpack source\n```\n"
    )
    yield (
        "`train_gpt.py` compares its score with `submission.json` and says whether it reproduces it. It "
        "needs no network. Scores on a CPU and on a GPU differ in the fourth or fifth digit, and training "
        "bounded by seconds takes other steps on another machine.\n"
    )


def _recipe(page: Page) -> Iterator[str]:
    yield "## Recipe\n"
    yield "All settings that are not at their default; `artifact.bg` holds every one.\n"
    if page.submission["source_sha256"] != page.submission["run_source_sha256"]:
        yield (
            "The run was made by another state of the program than the one that is packed here: the hash of "
            f"its source was `{page.submission['run_source_sha256'][:16]}…`.\n"
        )
    yield f"```python\n{recipe_code(page.recipe)}\n```\n"


def _table(head: Sequence[str], body: Sequence[Sequence[str]], numbers: int = 99) -> Iterator[str]:
    """A table whose columns from `numbers` on are aligned to the right."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "|".join("---:" if index >= numbers else "---" for index in range(len(head))) + "|"
    for row in body:
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"
    yield ""
