"""The command line: `bytegolf COMMAND …`. Only commands that compute import torch."""

import difflib
import sys
from collections.abc import Sequence

from bytegolf.cli.failures import INTERRUPTED, explain, fail


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command line (by default the program's own) and returns the exit code.

    0: done. 1: `prove` found a broken condition. 2: a mistake that the user can put right, told in one line
    on standard error. 130: stopped.
    """
    words = sys.argv[1:] if words is None else list(words)
    try:
        return _run(words)
    except KeyboardInterrupt:
        print("bytegolf: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; the interpreter must not complain when it flushes.
        sys.stdout = None
        return 0
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        return fail(line)


def _run(words: list[str]) -> int:
    from bytegolf import __version__
    from bytegolf.cli.help_pages import print_command, print_commands
    from bytegolf.cli.options import COMMANDS, command_of

    if not words or words[0] in ("--help", "-h", "help"):
        print_commands()
        return 0
    if words[0] == "--version":
        print(f"bytegolf {__version__}")
        return 0
    name, rest = command_of(words)
    if name not in COMMANDS:
        near = [known for known in COMMANDS if known.startswith(f"{name} ")]
        near = near or difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        return fail(f"command {name!r} is unknown; {hint}")
    if rest and rest[0] in ("--help", "-h"):
        print_command(name)
        return 0
    if name == "recipes":
        from bytegolf.cli.listing import list_recipes

        return list_recipes(rest)
    if name == "compare":
        from bytegolf.cli.compare import compare

        return compare(rest)
    from bytegolf.cli import commands

    return commands.RUNNERS[name](rest)
