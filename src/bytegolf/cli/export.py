"""`bytegolf export challenge` and `bytegolf export huggingface`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytegolf.cli.arguments import read_command
from bytegolf.cli.help_pages import print_command
from bytegolf.cli.options import ExportChallenge, ExportHuggingFace
from bytegolf.serving.artifact import artifact_in, open_artifact
from bytegolf.serving.huggingface.check import check_folder
from bytegolf.serving.huggingface.folder import write_folder
from bytegolf.submission.folder import Labels, Sizes, open_run, refuse_existing, write

_TOO_LARGE = 1
_SHORT = {"-o": "out"}


def export_challenge(words: Sequence[str]) -> int:
    """`bytegolf export challenge RUN …`"""
    if {"--help", "-h"} & set(words):
        print_command("export challenge")
        return 0
    options: ExportChallenge = read_command("export challenge", ExportChallenge, words, short=_SHORT)
    run = Path(options.run)
    target = Path(options.out) if options.out else run / "challenge"
    refuse_existing(target)
    submission = open_run(run, tuple(map(Path, options.also)))
    _print_sizes(Console(), submission.sizes)
    over = submission.sizes.over
    if over > 0 and not options.force:
        print(
            f"bytegolf: {over:,} bytes over the {submission.sizes.limit:,} of the challenge; lower "
            f"compression.budget_bytes by as many (bytegolf compress {run}), or write it anyway with --force",
            file=sys.stderr,
        )
        return _TOO_LARGE
    labels = Labels(
        author=options.author,
        github_id=options.github_id,
        name=options.name,
        blurb=options.blurb,
        track=options.track,
        hardware=options.hardware,
    )
    write(submission, labels, target)
    Console().print(Text(f"{target}  try it: python {target / 'train_gpt.py'}"), soft_wrap=True)
    return 0


def export_huggingface(words: Sequence[str]) -> int:
    """`bytegolf export huggingface ARTIFACT …`"""
    if {"--help", "-h"} & set(words):
        print_command("export huggingface")
        return 0
    options: ExportHuggingFace = read_command("export huggingface", ExportHuggingFace, words, short=_SHORT)
    path = artifact_in(Path(options.artifact))
    target = Path(options.out) if options.out else path.parent / "huggingface"
    artifact = open_artifact(path, device="cpu")
    sizes = write_folder(artifact, target, options.precision)
    console = Console()
    weights = sizes["model.safetensors"]
    console.print(
        f"{target}  {weights:,} bytes of weights in {options.precision}, {len(sizes)} files",
        highlight=False,
        soft_wrap=True,
    )
    try:
        moved = check_folder(artifact, target, options.precision)
    except ImportError:
        console.print(
            "not checked: pip install 'bytegolf[hf]' to load it here", highlight=False, markup=False
        )
    else:
        console.print(
            "checked: loaded by transformers, its logits are the artifact's to the bit"
            + (f"; rounding its weights moved ln p by at most {moved:.2g}" if moved else ""),
            highlight=False,
        )
    return 0


def _print_sizes(console: Console, sizes: Sizes) -> None:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("")
    table.add_column("bytes", justify="right")
    table.add_row("code (train_gpt.py)", f"{sizes.code:,}")
    table.add_row("weights (artifact.bg without its tokenizer)", f"{sizes.model:,}")
    style = "bold red" if sizes.over > 0 else "bold"
    table.add_row(f"counted, of {sizes.limit:,} allowed", f"{sizes.total:,}", style=style)
    table.add_row("artifact.bg on disk", f"{sizes.artifact:,}", style="dim")
    table.add_row("code that evaluation alone would need", f"{sizes.evaluation:,}", style="dim")
    console.print(table, highlight=False)
