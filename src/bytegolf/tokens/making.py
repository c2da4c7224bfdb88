"""Text to a folder of tokens, here or in a process of its own.

That process lets this one compile meanwhile: text keeps Python busy for as long as the compiler does. It is a
program that is told in JSON what to do and says in lines of JSON how far it is, so a script that trains
needs no guard against being run again, as it would where processes are spawned.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bytegolf import errors
from bytegolf.errors import BytegolfError, ShardError
from bytegolf.text.spec import Text, load_text
from bytegolf.text.spread import processes_for
from bytegolf.tokens.manifest import file_digest
from bytegolf.tokens.shards import Prepared, prepare
from bytegolf.tokens.spec import Tokens, build_tokenizer
from bytegolf.tree import from_json, to_json

Say = Callable[[str], None]

# Where to import from is told, for this process may have changed it.
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from bytegolf.tokens import making
making.main()
"""


@dataclass(frozen=True)
class TokensToMake:
    """What is to be read, cut into which tokens, and where they go.

    source: what decides the tokens, with the path, size and time of each file under "files".
    """

    text: Text
    tokens: Tokens
    folder: Path
    source: dict[str, Any]


def make_tokens(job: TokensToMake, say: Say) -> Prepared:
    """Reads, splits, trains the tokenizer if one is to be trained, and tokenizes, by all cores if it is much.

    `say` is told what is being done. Raises `TextError`, `TokenizerError` or `ShardError`.
    """
    say("reading text …")
    split = load_text(job.text)
    files = [[*entry, file_digest(Path(entry[0]))] for entry in job.source["files"]]
    return prepare(
        job.folder,
        training=split.training,
        validation=split.validation,
        tokenizer=build_tokenizer(job.tokens, split.training),
        source=job.source | {"files": files},
        progress=lambda documents, done: say(f"tokenizing … {documents:,} documents"),
        processes=processes_for(sum(len(document.text) for document in split.training)),
    )


@contextlib.contextmanager
def made_meanwhile(job: TokensToMake, say: Say) -> Iterator[None]:
    """While the block runs, `make_tokens` does in a process of its own; behind it the folder is complete.

    Raises what `make_tokens` does, after the block, and `ShardError` if the process dies.
    """
    # What it writes on its standard error is for the user, as from here.
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        last: dict[str, str] = {}
        listener = threading.Thread(target=_listen, args=(process.stdout, say, last), daemon=True)
        try:
            # It may have died already, and says then what of.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(_as_json(job)))
                process.stdin.close()
            listener.start()
            yield
            listener.join()
        except BaseException:
            process.terminate()
            if listener.is_alive():
                listener.join()
            raise
    if "error" in last:
        raise _named_error(last["error"])(last["message"])
    if "done" not in last:
        raise ShardError(
            "the process that prepares text died, probably for lack of memory; what it said stands above"
        )


def main() -> None:
    """The process: a job as JSON on standard input, and on standard output what it says, or how it ended."""
    # Ctrl-C reaches every process of the terminal; the one that asked for tokens answers it, by terminating.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # The compiler is waited for longer than text: where both want a core, it goes first.
    os.nice(10)
    # Whatever a library prints must not come between the lines.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(**line: str) -> None:
        print(json.dumps(line), file=out, flush=True)

    try:
        make_tokens(_from_json(json.load(sys.stdin)), lambda message: tell(say=message))
    except BytegolfError as error:
        tell(error=type(error).__name__, message=str(error))
    else:
        tell(done="")


def _listen(lines: IO[str], say: Say, last: dict[str, str]) -> None:
    for line in lines:
        told = json.loads(line)
        if "say" in told:
            say(told["say"])
        else:
            last.update(told)


def _named_error(name: str) -> type[BytegolfError]:
    found = getattr(errors, name)
    assert issubclass(found, BytegolfError)
    return found


def _as_json(job: TokensToMake) -> dict[str, Any]:
    return {
        "text": to_json(job.text),
        "tokens": to_json(job.tokens),
        "folder": str(job.folder),
        "source": job.source,
    }


def _from_json(found: dict[str, Any]) -> TokensToMake:
    return TokensToMake(
        from_json(Text, found["text"], "text"),
        from_json(Tokens, found["tokens"], "tokens"),
        Path(found["folder"]),
        found["source"],
    )
