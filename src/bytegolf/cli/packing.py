"""`bytegolf pack` and `bytegolf unpack`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bytegolf.cli.arguments import read_command
from bytegolf.cli.options import Pack, Unpack
from bytegolf.errors import RecipeError
from bytegolf.evaluation.windows import Sliding
from bytegolf.running.packing import PackedSize, pack_file, unpack_file
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import Artifact, open_artifact

#: What a packed file's name ends with.
_ENDING = ".bgp"
_SHORT = {"-m": "artifact", "-o": "out"}


def pack(words: Sequence[str]) -> int:
    """`bytegolf pack FILE -m ARTIFACT …`"""
    options: Pack = read_command("pack", Pack, words, short=_SHORT)
    target = _target(options.out or f"{options.file}{_ENDING}", options.force)
    artifact = _artifact("pack", options.artifact, options.device)
    console = Console()
    display = Display(Console(stderr=True))
    plan = None
    if options.length or options.stride:
        length = options.length or artifact.context
        plan = Sliding(length, options.stride or max(1, length // 2))
    with display.line():
        size = pack_file(
            artifact,
            Path(options.file),
            target,
            plan=plan,
            streams=options.streams or None,
            adapt=options.adapt,
            compare=options.compare,
            display=display,
        )
    _print_size(console, size, target)
    return 0


def unpack(words: Sequence[str]) -> int:
    """`bytegolf unpack FILE -m ARTIFACT …`"""
    options: Unpack = read_command("unpack", Unpack, words, short=_SHORT)
    if not options.out and not options.file.endswith(_ENDING):
        raise RecipeError(f"{options.file} does not end with {_ENDING}; say where to restore it with -o FILE")
    target = _target(options.out or options.file.removesuffix(_ENDING), options.force)
    artifact = _artifact("unpack", options.artifact, options.device)
    display = Display(Console(stderr=True))
    with display.line():
        seconds = unpack_file(artifact, Path(options.file), target, display=display)
    Console().print(
        f"{target}  {target.stat().st_size:,} bytes restored in {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _target(name: str, force: bool) -> Path:
    target = Path(name)
    if target.exists() and not force:
        raise RecipeError(f"{target} exists; name another file with -o FILE, or replace it with --force")
    return target


def _artifact(command: str, path: str, device: str) -> Artifact:
    if not path:
        raise RecipeError(f"{command} needs the model; add -m ARTIFACT, the path of a .bg file")
    return open_artifact(path, device=device)


def _print_size(console: Console, size: PackedSize, target: Path) -> None:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("")
    for name in ("bytes", "bits/byte"):
        table.add_column(name, justify="right")
    rows: list[tuple[str, float | None]] = [
        ("source", size.source_bytes),
        ("packed", size.packed_bytes),
        ("the model's scores of what was coded", size.ledger_bytes),
        ("the same in whole windows", size.parallel_bytes),
        (f"without the cuts into {size.streams} streams", size.uncut_bytes),
        ("xz -9e", size.xz_bytes),
    ]
    for name, value in rows:
        if value is not None:
            style = "bold" if name == "packed" else ""
            table.add_row(name, f"{value:,.0f}", f"{size.bits_per_byte(value):.4f}", style=style)
    console.print(table)
    rate = size.tokens / size.seconds if size.seconds else 0.0
    console.print(
        f"{target}  {size.tokens:,} tokens in {size.seconds:.1f} s ({rate:,.0f} a second)",
        highlight=False,
        soft_wrap=True,
    )
