"""Every mistake of a user as one line on standard error."""

import errno
import sys

from bytegolf.errors import BytegolfError

USAGE, INTERRUPTED = 2, 130

_REMEDIES = {
    errno.ENOSPC: "free some space, or name a folder on another disk",
    errno.EDQUOT: "free some space, or name a folder on another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or name a folder on another disk",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "name another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def explain(error: BaseException) -> str | None:
    """The line that tells the user what to change, or None if the error is a bug of ours."""
    if isinstance(error, BytegolfError):
        return _one_line(str(error))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        remedy = _REMEDIES.get(error.errno or 0, "")
        return _one_line(f"{where}{error.strerror or error}{f'; {remedy}' if remedy else ''}")
    if _is_out_of_memory(error):
        return "out of memory; lower training.forward_rows or training.length, or the model's width"
    return None


def fail(message: str) -> int:
    """Prints the line and returns the exit code."""
    sys.stdout.flush()
    print(f"bytegolf: {message}", file=sys.stderr)
    return USAGE


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's class is known by name here, so that help needs no torch.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
