"""What `train_gpt.py --train` does: the run of the shipped artifact's recipe, once more."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bytegolf.artifact.container import read_artifact
from bytegolf.files import atomic_write
from bytegolf.recipe import Recipe
from bytegolf.runner import run
from bytegolf.submission.evaluation import moved
from bytegolf.tokens.spec import TokenizerFile
from bytegolf.training.signals import Interrupted
from bytegolf.tree import from_json

_INTERRUPTED = 130


def train(
    artifact: Path,
    folder: Path,
    *,
    text: tuple[str, ...] = (),
    validation: tuple[str, ...] = (),
    seed: int | None = None,
    resume: bool = False,
    device: str = "auto",
) -> int:
    """Trains, compresses and scores the recipe of an artifact in the run folder `folder`; returns 0.

    `text` and `validation` say where the recipe's sources lie now. A tokenizer that the recipe takes from a
    file comes from the artifact instead. With `resume`, the run in `folder` goes on. 130 if it was stopped.
    """
    recipe = saved_recipe(artifact, folder, text, validation, seed)
    try:
        result = run(recipe, folder, resume=resume, device=device, console=Console())
    except Interrupted:
        print(f"stopped; continue with: python train_gpt.py --train --folder {folder} --resume")
        return _INTERRUPTED
    if not result:
        return 0
    for row in result["scores"]:
        score = f"val_bpb:{row['bits_per_byte']:.8f} val_loss:{row['nats_per_token']:.8f}"
        print(f"{score} {row['model']}, {row['plan']}")
    sizes = result["artifact"]
    print(f"artifact:{sizes['bytes']} challenge_size:{sizes['challenge_bytes']} {sizes['path']}")
    return 0


def saved_recipe(
    artifact: Path, folder: Path, text: tuple[str, ...], validation: tuple[str, ...], seed: int | None
) -> Recipe:
    """The recipe that the artifact was made by, for the files of this machine."""
    contents = read_artifact(artifact)
    recipe = from_json(Recipe, contents.recipe)
    training = recipe.training if seed is None else replace(recipe.training, seed=seed)
    # The tokenizer decides the vocabulary anew: other text may give it fewer pieces.
    model = replace(recipe.model, vocabulary=0)
    tokens = recipe.tokens
    if isinstance(tokens, TokenizerFile):
        tokens = TokenizerFile(str(folder / "shipped.tokenizer"))
        atomic_write(Path(tokens.path), contents.tokenizer)
    reused = not text and not validation and (Path(recipe.prepared) / "manifest.json").is_file()
    return replace(
        recipe,
        text=moved(recipe.text, text, validation),
        tokens=tokens,
        model=model,
        training=training,
        prepared=recipe.prepared if reused else "",
    )
