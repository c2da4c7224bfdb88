"""Each byte once, and in order: what the session of the whole text says."""

from collections.abc import Sequence

import numpy as np

from bytegolf.evaluation.proof.subject import Passage, Subject, Taking
from bytegolf.evaluation.proof.verdict import BYTES, ORDER, Verdict, failed, not_checked, passed


def order(subject: Subject, taking: Taking) -> Verdict:
    """Scores came from left to right, before anything learned from their tokens."""
    witness, learns = taking.witness, subject.track.learns
    numbers = {
        "track": "adaptive" if learns else "fixed",
        "targets": witness.targets,
        "scored": witness.scored,
        "parameters_sha256": taking.parameters,
        "parameters_unchanged": taking.parameters_kept,
    }
    if witness.error:
        return failed(ORDER, f"The session stopped: {witness.error}.", **numbers)
    if not taking.parameters_kept:
        return failed(ORDER, "Scoring changed the artifact's own parameters.", **numbers)
    how = (
        "a copy of the model learned from tokens only after their scores were written down"
        if learns and (subject.chunk or subject.documents)
        else "the parameters are the same, bit for bit, before and after"
    )
    return passed(ORDER, f"{witness.scored:,} scores, from left to right; {how}.", **numbers)


def each_byte_once(
    subject: Subject, texts: Sequence[bytes], passage: Passage, taking: Taking | None
) -> Verdict:
    """Every token and document end has one score, and the ledger's bytes are those of the text."""
    tokenizer, ids = subject.tokenizer, passage.ids
    ends = np.append(passage.starts[1:], passage.targets)
    expected = sum(len(tokenizer.encode(text)) + 1 for text in texts)
    counts = subject.counts(tokenizer, ids[1:], int(ids[0])).astype(np.int64)
    # Targets of a document: its tokens, which begin behind its bos, and its end.
    ledger_D = np.add.reduceat(counts, passage.starts)
    text_bytes = sum(map(len, texts))
    numbers = {
        "documents": len(texts),
        "text_bytes": text_bytes,
        "ledger_bytes": int(ledger_D.sum()),
        "targets": passage.targets,
        "tokens_and_document_ends": expected,
    }
    problem = "" if taking is None else _scored_once(taking, numbers)
    if not problem and expected != passage.targets:
        problem = f"{passage.targets:,} targets for {expected:,} tokens and document ends."
    if problem:
        return failed(BYTES, problem, **numbers)
    for number, (text, start, end) in enumerate(zip(texts, passage.starts, ends, strict=True)):
        restored = tokenizer.decode(ids[start + 1 : end])
        # The challenge's rule leaves out the space put before the first word.
        space = not tokenizer.lossless and tokenizer.token_bytes[ids[start + 1]].startswith(b" ")
        true = len(text) if tokenizer.lossless else len(restored) - space
        if tokenizer.lossless and restored != text:
            return failed(BYTES, f"The tokens of document {number} are not its text.", **numbers)
        if int(ledger_D[number]) != true:
            what = "bytes" if tokenizer.lossless else "bytes once normalized"
            return failed(
                BYTES,
                f"Document {number} has {true:,} {what}, but the ledger counts {int(ledger_D[number]):,}.",
                **numbers,
            )
    if not tokenizer.lossless:
        return not_checked(
            BYTES,
            f"The tokenizer ({tokenizer.kind}) changes its text before it cuts it: the ledger's "
            f"{numbers['ledger_bytes']:,} bytes are those of the changed text, the file has {text_bytes:,}.",
            **numbers,
        )
    return passed(
        BYTES,
        f"{passage.targets:,} targets, one score each: every token of {len(texts):,} documents and their "
        f"ends. The ledger has {text_bytes:,} bytes, as the text has.",
        **numbers,
    )


def _scored_once(taking: Taking, numbers: dict) -> str:
    times = taking.witness.times
    numbers["scored_once"] = int((times == 1).sum())
    if (times > 1).any():
        return f"Target {int(np.argmax(times > 1))} is scored {int(times.max())} times."
    if (times == 0).any():
        missing = times == 0
        return f"{int(missing.sum()):,} targets have no score, the first is {int(np.argmax(missing)):,}."
    return ""
