"""The certificate of a proof: verdicts with their numbers, bound to what they were taken on by SHA-256.

It is no signature. Whoever can write a file can write a certificate; what makes one worth reading is that the
same command gives the same verdicts to anyone.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bytegolf.errors import BytegolfError
from bytegolf.evaluation.proof.verdict import Outcome, Verdict
from bytegolf.files import atomic_write
from bytegolf.running.environment import describe_environment, source_hash
from bytegolf.text.documents import Document, text_digest

FORMAT = 1


def bindings(artifact: bytes, recipe: dict[str, Any], documents: Sequence[Document]) -> dict[str, str]:
    """SHA-256 of the artifact file, of the scored text, of the artifact's recipe, and of this program."""
    plain = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {
        "artifact_sha256": hashlib.sha256(artifact).hexdigest(),
        "text_sha256": text_digest(documents),
        "recipe_sha256": hashlib.sha256(plain.encode()).hexdigest(),
        "source_sha256": source_hash(),
    }


def overall(verdicts: Sequence[Verdict]) -> Outcome:
    """The worst of the verdicts: fail, else not checked, else pass."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return "fail" if "fail" in outcomes else "not checked" if "not checked" in outcomes else "pass"


def compose(
    verdicts: Sequence[Verdict],
    bound: dict[str, str],
    score: dict[str, Any] | None,
    asked: dict[str, Any],
) -> dict[str, Any]:
    """The certificate as plain data. score: None where the text got none; asked: the proof's own settings."""
    machine = describe_environment()
    return {
        "format": FORMAT,
        "outcome": overall(verdicts),
        "date": machine["date"],
        "bound_to": bound,
        "score": score,
        "asked": asked,
        "verdicts": [_plain(asdict(verdict)) for verdict in verdicts],
        "machine": machine,
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_certificate(path: Path, certificate: dict[str, Any]) -> None:
    """Writes it as indented JSON, whole or not at all."""
    data = json.dumps(certificate, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(path, data.encode())


def read_certificate(path: Path) -> dict[str, Any]:
    """The certificate in a file. Raises `BytegolfError` if there is none."""
    try:
        certificate = json.loads(path.read_bytes())
    except OSError as error:
        raise BytegolfError(
            f"{path} cannot be read ({error.strerror}); name a file that prove wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BytegolfError(f"{path} is not JSON; name a file that prove wrote") from error
    if not isinstance(certificate, dict) or certificate.get("format") != FORMAT:
        raise BytegolfError(f"{path} is no certificate of format {FORMAT}; prove the artifact again")
    if not isinstance(certificate.get("bound_to"), dict):
        raise BytegolfError(f"{path} is bound to nothing; prove the artifact again")
    return certificate


def check_certificate(
    path: Path, artifact: bytes, recipe: dict[str, Any], documents: Sequence[Document]
) -> dict[str, bool]:
    """Whether each of a certificate's hashes is that of what lies here; all True: it is about these."""
    bound = read_certificate(path)["bound_to"]
    return {name: bound.get(name) == digest for name, digest in bindings(artifact, recipe, documents).items()}
