"""What each command takes beside the settings of a recipe: one dataclass a command."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from bytegolf.evaluation.significance import MARGIN
from bytegolf.evaluation.windows import Chunked, Sliding, WindowPlan

Device = Literal["auto", "cpu", "cuda"]
_RecipeWord = Annotated[Positional[str], arg(metavar="RECIPE")]
_FolderWord = Annotated[Positional[str], arg(metavar="FOLDER")]
_ArtifactWord = Annotated[Positional[str], arg(metavar="ARTIFACT")]
_FileWord = Annotated[Positional[str], arg(metavar="FILE")]
_PromptWord = Annotated[Positional[str], arg(metavar="PROMPT")]
_RunWord = Annotated[Positional[str], arg(metavar="RUN")]
_RunWords = Annotated[Positional[tuple[str, ...]], arg(metavar="RUN…")]
_Runs = Annotated[tuple[str, ...], arg(metavar="RUN…")]
_Sets = Annotated[tuple[str, ...], arg(metavar="PATH=VALUE,VALUE…")]


@dataclass(frozen=True)
class Train:
    """Text in, one compressed and scored model out: train a recipe."""

    recipe: _RecipeWord = ""
    """A recipe's name (see `bytegolf recipes`), a .py file with RECIPE, or a run's recipe.json."""
    folder: str = ""
    """Folder of the run; runs/NAME by default, with a number if that is taken."""
    resume: str = ""
    """Folder of a run to continue from its newest checkpoint, with the recipe it holds."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class Compress:
    """Compress a run's newest checkpoint again, to other bytes."""

    folder: _FolderWord
    """The folder of the run. Its artifact, result and report are replaced."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class Evaluate:
    """Score an artifact on any text, in bits per byte."""

    artifact: _ArtifactWord
    """The .bg file."""
    plans: tuple[WindowPlan, ...] = (Sliding(), Chunked())
    """Ways to score: Chunked, Sliding or PerDocument. By default those of the artifact's recipe."""
    text: tuple[str, ...] = ()
    """Files, folders, kjv or python."""
    field: str = "text"
    """The field of .jsonl and .parquet files that holds the text."""
    cut_bytes: int = 0
    """Cuts plain text into documents of about so many bytes; 0 keeps each file whole."""
    adapt: bool = False
    """Let the model learn from what is scored, by the adaptation of its recipe."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    json: bool = False
    """Rows as JSON instead of a table."""


@dataclass(frozen=True)
class Core:
    """Ask a model the 22 tasks of the CORE benchmark.

    Answers are kept as they come, so that the same command goes on where it was stopped.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A .bg file, a run's folder, or a Hugging Face model by its folder or name."""
    bundle: str = ""
    """Folder or archive (.zip, .tar.xz) with nanochat's tasks; by default where nanochat keeps it."""
    max_per_task: int | None = None
    """Ask at most so many items of each task; the draw is part of the protocol."""
    tasks: tuple[str, ...] = ()
    """Only these tasks, such as copa piqa; CORE itself needs all."""
    context: int | None = None
    """Tokens of an item that are read at most, the last ones; by default what the model was trained with."""
    folder: str = ""
    """Where answers and results go; core/ beside the artifact by default, or runs/NAME/core."""
    trust_remote_code: bool = False
    """Run the code that a Hugging Face model brings along, such as that of `export huggingface`."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class Generate:
    """Continue a text with an artifact's model.

    The new bytes go to standard output as they come.
    """

    artifact: _ArtifactWord
    """The .bg file."""
    prompt: _PromptWord = ""
    """The beginning of a document; empty lets the model begin."""
    tokens: int = 200
    """How many tokens to write at most."""
    temperature: float = 0.8
    """0 takes the likeliest token; 1 draws as the model says."""
    top_k: int | None = None
    """Choose among the k likeliest tokens."""
    top_p: float | None = None
    """Choose among the fewest tokens whose probabilities reach p."""
    seed: int | None = 0
    """Fixes the draws; none draws anew each time."""
    stop_at_document_end: bool = True
    """End where the model ends the document."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class Pack:
    """Compress any file without loss, with an artifact's model: the proof of its score.

    Only `unpack` with the same artifact, on a machine with the same arithmetic, restores the file.
    """

    file: _FileWord
    """The file to pack."""
    artifact: str = ""
    """The .bg file (-m ARTIFACT)."""
    out: str = ""
    """Where to write (-o FILE); FILE.bgp by default."""
    streams: int = 0
    """Spans of the file that are coded side by side: more are faster and lose context. 0 chooses."""
    length: int = 0
    """Tokens of a window; 0 takes the length the model was trained with."""
    stride: int = 0
    """How far windows advance; 0 takes half of the length."""
    adapt: bool = False
    """Let the model learn from what is coded, by the adaptation of its recipe."""
    compare: bool = True
    """Also score the file in whole windows, with and without the cuts."""
    force: bool = False
    """Replace a file that exists."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class Unpack:
    """Restore a packed file, bit for bit."""

    file: _FileWord
    """The .bgp file."""
    artifact: str = ""
    """The .bg file that packed it (-m ARTIFACT)."""
    out: str = ""
    """Where to write (-o FILE); the name without .bgp by default."""
    force: bool = False
    """Replace a file that exists."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one. It must be what packed the file."""


@dataclass(frozen=True)
class Prove:
    """Test whether a score counts: every condition with its verdict and numbers, and a certificate.

    Exit code 1 if a condition fails. What was not checked is said, and counts as failed only with --strict.
    """

    artifact: _ArtifactWord
    """The .bg file."""
    text: tuple[str, ...] = ()
    """Files, folders, kjv or python; by default the held-out documents of the artifact's own run."""
    plan: WindowPlan = Sliding()
    """How to score: Chunked, Sliding or PerDocument. By default the first plan of the artifact's recipe."""
    adapt: bool = False
    """Let a copy of the model learn from what is scored, by the adaptation of its recipe."""
    data: str = ""
    """Folder of the prepared training text; by default data/ beside the artifact, or the recipe's."""
    claim: float | None = None
    """The bits per byte that are claimed; by default those of result.json beside the artifact."""
    limit: int | None = None
    """The bytes that the artifact may have; by default its recipe's."""
    positions: int = 64
    """At how many places tokens are changed and distributions summed, at least."""
    seed: int = 0
    """Draws these places; who doubts takes another."""
    round_trip: bool = False
    """Also pack the text and restore it in a fresh process. This takes long."""
    strict: bool = False
    """Exit code 1 also if a condition was not checked."""
    json: str = ""
    """Where to write the certificate; certificate.json beside the artifact by default."""
    field: str = "text"
    """The field of .jsonl and .parquet files that holds the text."""
    cut_bytes: int = 0
    """Cuts plain text into documents of about so many bytes; 0 keeps each file whole."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class Show:
    """What a recipe builds: layers, parameters, bytes, memory, work.

    Nothing is trained.
    """

    recipe: _RecipeWord = ""
    """A recipe's name, a .py file with RECIPE, or a run's recipe.json."""
    svg: str = ""
    """Also draws the network into this file."""
    tokens_per_second: float | None = None
    """Speed of training, if known: tells how many steps the budget holds."""


@dataclass(frozen=True)
class Recipes:
    """The recipes that come with bytegolf."""


@dataclass(frozen=True)
class Doctor:
    """What runs how on this machine, and why."""

    json: bool = False
    """Rows as JSON instead of a table."""


@dataclass(frozen=True)
class Report:
    """Write a run's report.html again from its files."""

    folder: _FolderWord
    """The folder of the run."""


@dataclass(frozen=True)
class Sweep:
    """Train a recipe with several seeds, and with every combination of some settings.

    Each run has a folder below FOLDER. What is finished is skipped and what was stopped goes on, so that the
    same command continues a sweep.
    """

    recipe: _RecipeWord = ""
    """A recipe's name, a .py file with RECIPE, or a run's recipe.json."""
    seeds: tuple[int, ...] = ()
    """The seeds that every combination is trained with, such as 1 2 3."""
    set: _Sets = ()
    """Values to try for a setting, by its dotted path. Several settings give all their combinations."""
    folder: str = ""
    """Folder of the sweep; runs/NAME-sweep by default."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class Compare:
    """Seeds side by side, and whether one way to train beats another (Welch's t-test).

    A RUN is a run's folder, or a folder with runs below it, such as a group of a sweep.
    """

    runs: _RunWords
    """The runs of one way to train, a seed each."""
    against: _Runs = ()
    """The runs of the way to compare with."""
    margin: float = MARGIN
    """Nats per token that RUN must be better by; the default is the 16 MB challenge's."""
    plan: str = ""
    """The scoring plan to compare under, such as 'chunked 1024'; by default the first that all runs share."""
    json: str = ""
    """Also writes all figures into this file."""


@dataclass(frozen=True)
class ExportChallenge:
    """Write a finished run as a submission to the 16 MB challenge.

    The folder holds one script with all the code, the artifact, submission.json, README.md and a log. Exit
    code 1 if code and weights have more than 16,000,000 bytes.
    """

    run: _RunWord
    """The folder of the run."""
    out: str = ""
    """Where to write (-o FOLDER); RUN/challenge by default."""
    author: str = ""
    """Who submits."""
    github_id: str = ""
    """The submitter's name on GitHub."""
    name: str = ""
    """Title of the submission; the recipe's name by default."""
    blurb: str = ""
    """What it does, in a sentence or two."""
    track: str = "non_record_16mb"
    """The challenge's track, such as 10min_16mb."""
    hardware: str = ""
    """What the run used, such as 8xH100 80GB SXM; by default the GPU or processor it found."""
    also: _Runs = ()
    """Runs of the same recipe with other seeds: their scores and logs are added, and val_bpb is the mean."""
    force: bool = False
    """Write it even if it has too many bytes."""


@dataclass(frozen=True)
class ExportHuggingFace:
    """Write an artifact as a folder that the Hugging Face library loads.

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True) runs the same forward pass: the code
    in the folder is this program's own.
    """

    artifact: _ArtifactWord
    """The .bg file, or the folder of a run."""
    out: str = ""
    """Where to write (-o FOLDER); huggingface/ beside the artifact by default."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the weights; float32 keeps exactly those of the artifact."""


COMMANDS: dict[str, type] = {
    "train": Train,
    "compress": Compress,
    "sweep": Sweep,
    "evaluate": Evaluate,
    "compare": Compare,
    "prove": Prove,
    "core": Core,
    "generate": Generate,
    "pack": Pack,
    "unpack": Unpack,
    "show": Show,
    "recipes": Recipes,
    "doctor": Doctor,
    "report": Report,
    "export challenge": ExportChallenge,
    "export huggingface": ExportHuggingFace,
}
#: Fields that are given by their place; the first is needed where the class has no default for it.
POSITIONALS = {
    "train": ("recipe",),
    "compress": ("folder",),
    "sweep": ("recipe",),
    "evaluate": ("artifact",),
    "prove": ("artifact",),
    "core": ("model",),
    "compare": ("runs",),
    "generate": ("artifact", "prompt"),
    "pack": ("file",),
    "unpack": ("file",),
    "show": ("recipe",),
    "recipes": (),
    "doctor": (),
    "report": ("folder",),
    "export challenge": ("run",),
    "export huggingface": ("artifact",),
}
_PLACES = {"prompt": "[PROMPT]", "runs": "RUN…"}


def usage(name: str) -> str:
    """bytegolf COMMAND with its positional arguments."""
    words = [_PLACES.get(field, field.upper()) for field in POSITIONALS[name]]
    return " ".join(["bytegolf", name, *words])


def command_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command that a line begins with, which may have two words, and the words after it."""
    name = " ".join(words[:2])
    return (name, list(words[2:])) if name in COMMANDS else (words[0], list(words[1:]))
