"""`bytegolf prove`."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytegolf.artifact.container import read_artifact
from bytegolf.cli.arguments import read_command
from bytegolf.cli.draft import Draft
from bytegolf.cli.options import Prove
from bytegolf.errors import RecipeError
from bytegolf.evaluation.proof.verdict import Verdict
from bytegolf.running.certificate import write_certificate
from bytegolf.running.progress import Display
from bytegolf.running.proving import Question
from bytegolf.running.proving import prove as prove_artifact

_FAILED = 1
_STYLES = {"pass": "green", "fail": "bold red", "not checked": "bold yellow"}


def prove(words: Sequence[str]) -> int:
    """`bytegolf prove ARTIFACT …`"""
    options = _read(words)
    artifact = Path(options.artifact)
    question = Question(
        artifact=artifact,
        plan=options.plan,
        text=options.text,
        field=options.field,
        cut_bytes=options.cut_bytes,
        adapt=options.adapt,
        data=options.data,
        claim=options.claim,
        limit=options.limit,
        positions=options.positions,
        seed=options.seed,
        round_trip=options.round_trip,
        device=options.device,
    )
    console, display = Console(), Display(Console(stderr=True))
    with display.line():
        verdicts, certificate = prove_artifact(question, display)
    target = Path(options.json) if options.json else artifact.parent / "certificate.json"
    write_certificate(target, certificate)
    if target == artifact.parent / "certificate.json" and (artifact.parent / "report.html").is_file():
        from bytegolf.report.page import write_report  # draws, which takes half a second to import

        write_report(artifact.parent)
    _print(console, verdicts, certificate, target)
    wrong = {"fail", "not checked"} if options.strict else {"fail"}
    return _FAILED if any(verdict.outcome in wrong for verdict in verdicts) else 0


def _read(words: Sequence[str]) -> Prove:
    """The options, with the first plan of the artifact's recipe unless another is asked for."""
    draft = Draft.blank(Prove)
    if words and not words[0].startswith("--"):
        evaluation = read_artifact(Path(words[0])).recipe.get("evaluation")
        plans = evaluation.get("plans") if isinstance(evaluation, dict) else None
        if isinstance(plans, list) and plans:
            draft.assign_plain("plan", plans[0])
    options: Prove = read_command("prove", draft, words)
    if options.positions < 1:
        raise RecipeError(f"--positions is {options.positions}; give a positive number")
    return options


def _print(console: Console, verdicts: Sequence[Verdict], certificate: dict[str, Any], target: Path) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for width in (17, 11, None):
        table.add_column(no_wrap=width is not None, min_width=width)
    for verdict in verdicts:
        style = _STYLES[verdict.outcome]
        table.add_row(verdict.condition, Text(verdict.outcome, style), Text(verdict.sentence))
    console.print(table, highlight=False)
    console.print()
    score = certificate["score"]
    if score is not None:
        console.print(
            f"{score['bits_per_byte']:.4f} bits per byte of {score['bytes']:,} bytes, {score['plan']}",
            highlight=False,
        )
    counts = {
        outcome: names
        for outcome in ("fail", "not checked")
        if (names := [verdict.condition for verdict in verdicts if verdict.outcome == outcome])
    }
    for outcome, names in counts.items():
        word = "failed" if outcome == "fail" else outcome
        line = f"{word.upper()}: {', '.join(names)}"
        console.print(Text(textwrap.shorten(line, 400), _STYLES[outcome]))
    if not counts:
        console.print(Text(f"all {len(verdicts)} conditions hold", _STYLES["pass"]))
    console.print(f"certificate  {target}", highlight=False, soft_wrap=True, markup=False)
