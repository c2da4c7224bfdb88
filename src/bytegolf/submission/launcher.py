"""`train_gpt.py` of a submission: unpacks the modules it carries, and evaluates or trains with them.

`bytegolf.artifact.source.script` puts the packed modules into SOURCES. Nothing but the standard library is
imported before they are unpacked, so that a missing package is named in one line.
"""

import argparse
import bz2
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

SOURCES = ""
#: Packages that the modules import, by what is asked for.
EVALUATION_NEEDS = ("torch", "numpy", "sentencepiece", "brotli", "constriction")
TRAINING_NEEDS = (*EVALUATION_NEEDS, "rich", "matplotlib")


def main() -> int:
    """Does what the command line asks for; returns 0, 1 for a score that differs, 2 for a mistake."""
    options = command_line().parse_args()
    if options.unpack:
        unpack(Path(options.unpack))
        return 0
    needed = TRAINING_NEEDS if options.train else EVALUATION_NEEDS
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"train_gpt.py: packages are missing; pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="train_gpt-") as folder:
        unpack(Path(folder))
        sys.path.insert(0, folder)
        return run(options)


def command_line() -> argparse.ArgumentParser:
    """The command line of `train_gpt.py`."""
    parser = argparse.ArgumentParser(description="Scores the model beside this file, or trains it again.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--evaluate", action="store_true", help="score the model; what happens by default")
    what.add_argument("--train", action="store_true", help="train, compress and score the same recipe again")
    what.add_argument("--unpack", default="", metavar="FOLDER", help="write the packed modules into FOLDER")
    place = Path(__file__).resolve().parent
    parser.add_argument("--artifact", type=Path, default=place / "artifact.bg", help="the model's file")
    many = {"nargs": "+", "default": [], "metavar": "FILES"}
    parser.add_argument("--text", **many, help="the recipe's text, where it lies elsewhere now")
    parser.add_argument("--validation", **many, help="the text to score; else the recipe's")
    parser.add_argument("--shards", **many, help="token shards to score, such as fineweb_val_*.bin")
    parser.add_argument("--every", action="store_true", help="score by every plan, not by the first alone")
    parser.add_argument("--folder", type=Path, default=place / "run", help="where --train writes")
    parser.add_argument("--resume", action="store_true", help="go on with the training in --folder")
    parser.add_argument("--seed", type=int, help="train with another seed than the recipe's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    return parser


def unpack(folder: Path) -> None:
    """Writes the packed modules below `folder`."""
    for name, text in json.loads(bz2.decompress(SOURCES.encode("latin-1"))).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def run(options: argparse.Namespace) -> int:
    """Evaluates or trains with the modules, which can be imported now."""
    from bytegolf.errors import BytegolfError

    try:
        if options.train:
            from bytegolf.submission.training import train

            return train(
                options.artifact,
                options.folder,
                text=tuple(options.text),
                validation=tuple(options.validation),
                seed=options.seed,
                resume=options.resume,
                device=options.device,
            )
        from bytegolf.submission.evaluation import evaluate

        return evaluate(
            options.artifact,
            text=tuple(options.text),
            validation=tuple(options.validation),
            shards=tuple(options.shards),
            every=options.every,
            device=options.device,
        )
    except (BytegolfError, OSError) as error:
        print(f"train_gpt.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train_gpt.py: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
