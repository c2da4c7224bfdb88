"""Lossless text compression with a model: the round trip that proves a score.

The text's tokens are cut into streams that are read side by side, each beginning anew. Windows advance over
all streams alike (a `Sliding` plan): what a window knows already is read in one pass, then a token at a time;
before a token is coded the model has seen nothing but the tokens before it in its stream. Encoder and decoder
run the same loop, which asks a coder for each step's ids: one that is told them, or one that finds them.

Shapes: B streams, T tokens of a window, V vocabulary.
"""

import hashlib
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bytegolf.errors import PackedError
from bytegolf.evaluation.adaptation import Adaptation, DocumentLora, MatchModel, ScoreFirstSgd
from bytegolf.evaluation.adaptation.match_model import StreamsTilt
from bytegolf.evaluation.adaptation.sgd import ChunkLearning
from bytegolf.evaluation.legality import Ledger, Session, Track
from bytegolf.evaluation.packed import MAX_BLOCK_TOKENS, MAX_WINDOW, Block, Layout, Packed
from bytegolf.evaluation.passes import Watch, fitted, silent
from bytegolf.evaluation.symbols import Coder, DamagedBlock, Decoder, Encoder, frequencies
from bytegolf.evaluation.windows import Sliding, Window
from bytegolf.model.decoding import Reader
from bytegolf.model.spec import LanguageModel
from bytegolf.tokens.tokenizer import Tokenizer

#: Tokens of a block: its overhead, about 12 bytes, is then below 0.05 %.
_BLOCK_TOKENS = 1 << 16
#: Windows in a stream, at least: each stream begins without context, which costs about half a window.
_STREAM_WINDOWS = 8
#: Streams that a device reads side by side at little more cost than one.
_STREAMS = {"cuda": 512, "cpu": 64}
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class PackReport:
    """What packing showed. ids: the text's tokens. ledger: the model's own scores of the coded session."""

    packed: Packed
    ids: np.ndarray
    ledger: Ledger
    seconds: float


def machine_name(device: torch.device) -> str:
    """What decides the last bits of a model's arithmetic: torch's version and the processor's kind."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def default_streams(tokens: int, length: int, device: torch.device) -> int:
    """As many streams as the device reads well side by side, if each keeps several windows of `length`."""
    return max(1, min(tokens // (_STREAM_WINDOWS * length), _STREAMS.get(device.type, 64)))


def pack(
    model: LanguageModel,
    tokenizer: Tokenizer,
    data: bytes,
    artifact_digest: bytes,
    plan: Sliding,
    *,
    streams: int | None = None,
    adaptation: Adaptation | None = None,
    watch: Watch = silent,
) -> PackReport:
    """Codes any bytes. `artifact_digest`: SHA-256 of the artifact, which alone can restore them.

    With `adaptation`, a copy of the model learns from what is coded, as the decoder's will.
    Raises `PackedError` for a tokenizer that does not give text back exactly, and for numbers of streams and
    windows that the file cannot hold.
    """
    began = time.perf_counter()
    ids = np.asarray(tokenizer.encode(data), dtype=np.int64)
    if not tokenizer.lossless or tokenizer.decode(ids) != data:
        raise PackedError(
            f"the artifact's tokenizer ({tokenizer.kind}) does not give every text back; "
            "pack with an artifact whose tokenizer was trained here"
        )
    if streams is None:
        streams = default_streams(len(ids), plan.length, model.device)
    streams = min(len(ids), streams)
    layout = Layout(
        text_bytes=len(data),
        tokens=len(ids),
        streams=streams,
        block_steps=max(1, _BLOCK_TOKENS // max(1, streams)),
        length=plan.length,
        stride=plan.stride,
        adaptive=adaptation is not None,
        threads=torch.get_num_threads(),
        precision=str(model.compute_dtype).removeprefix("torch."),
        machine=machine_name(model.device),
    )
    if not layout.storable:
        raise PackedError(
            f"{streams} streams in windows of {plan.length} cannot be packed; take 1 to {MAX_BLOCK_TOKENS} "
            f"streams and windows of at most {MAX_WINDOW} tokens"
        )
    blocks: list[Block] = []
    with torch.no_grad(), fitted(model, layout.length):
        run = _Run(model, tokenizer, layout, ids, adaptation)
        for steps in run.blocks():
            encoder = Encoder()
            check = run.code(steps, encoder, watch)
            words = encoder.finish()
            blocks.append(Block(words, zlib.crc32(words, check)))
    packed = Packed(layout, artifact_digest[:8], _text_digest(data), tuple(blocks))
    return PackReport(packed, ids, run.session.close(), time.perf_counter() - began)


def unpack(
    model: LanguageModel,
    tokenizer: Tokenizer,
    packed: Packed,
    artifact_digest: bytes,
    *,
    adaptation: Adaptation | None = None,
    watch: Watch = silent,
) -> bytes:
    """The bytes that were packed. `adaptation`: the artifact's own, used if the text was packed with it.

    Raises `PackedError` if the artifact is another one, or if this machine's arithmetic differs from that of
    the machine that packed: never wrong bytes.
    """
    layout = packed.layout
    if packed.artifact != artifact_digest[:8]:
        raise PackedError(
            f"packed with the artifact {packed.artifact.hex()}…, not with this one, "
            f"{artifact_digest[:8].hex()}…; name the artifact that packed it"
        )
    if layout.adaptive and adaptation is None:
        raise PackedError("packed while learning, but the artifact's recipe names no adaptation")
    with torch.no_grad(), _arithmetic(model, layout), fitted(model, layout.length):
        run = _Run(model, tokenizer, layout, None, adaptation)
        for steps, block in zip(run.blocks(), packed.blocks, strict=True):
            decoder = Decoder(block.words, tokenizer.vocabulary)
            try:
                check = run.code(steps, decoder, watch)
            except DamagedBlock as error:
                raise PackedError(_difference(layout, steps, model.device)) from error
            # The ids alone would miss damage to the coder's last bits, which nothing is read from.
            if zlib.crc32(block.words, check) != block.check or not decoder.exhausted:
                raise PackedError(_difference(layout, steps, model.device))
    ids = run.text_ids()
    data = tokenizer.decode(ids)
    if len(data) != layout.text_bytes or _text_digest(data) != packed.digest:
        raise PackedError("the restored text is not the one that was packed; the file is damaged")
    run.session.close()
    return data


def parallel_ledger(
    model: LanguageModel,
    tokenizer: Tokenizer,
    ids: np.ndarray,
    layout: Layout,
    *,
    adaptation: Adaptation | None = None,
    watch: Watch = silent,
) -> Ledger:
    """The session of a layout scored in whole windows, as `evaluate` does, instead of token by token."""
    session, base_B = _session(tokenizer, layout, ids)
    with fitted(model, layout.length):
        match_model, learner = _adapting(layout, adaptation)
        learning = ChunkLearning(learner, model, session, base_B, layout.steps)
        learning.score(
            ((window.scored, _in_streams(window, base_B, layout)) for window in _windows(layout)),
            watch=watch,
            tilt=None if match_model is None else match_model.tilt(session),
        )
    return session.close()


def _in_streams(window: Window, base_B: np.ndarray, layout: Layout) -> list[Window]:
    """The window in every stream that it scores something of."""
    return [
        Window(base + window.start, base + min(window.stop, tokens), base + window.scored)
        for stream, base in enumerate(base_B.tolist())
        if window.scored < (tokens := layout.stream_tokens(stream))
    ]


def _adapting(
    layout: Layout, adaptation: Adaptation | None
) -> tuple[MatchModel | None, ScoreFirstSgd | None]:
    """What tilts the distributions of a packed text, and what learns from it: nothing on the fixed track."""
    if not layout.adaptive:
        return None, None
    match_model = adaptation if isinstance(adaptation, MatchModel) else None
    learner = adaptation.learner if isinstance(adaptation, MatchModel) else adaptation
    if isinstance(learner, DocumentLora):
        raise PackedError(
            "DocumentLora learns in each document by itself, but a packed text is streams of one length; "
            "pack without --adapt"
        )
    return match_model, learner


class _Run:
    """The loop that encoder and decoder share: what the model has read, and what it reads next."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        layout: Layout,
        ids: np.ndarray | None,
        adaptation: Adaptation | None,
    ) -> None:
        self.session, self._base_B = _session(tokenizer, layout, ids)
        self._known = ids is not None
        match_model, learner = _adapting(layout, adaptation)
        self._learning = ChunkLearning(learner, model, self.session, self._base_B, layout.steps)
        self._tilt = None if match_model is None else StreamsTilt(match_model, layout.streams)
        self._layout = layout
        self._windows = _windows(layout)
        self._window = Window(0, 0, 0)
        self._reader = Reader(self._learning.model, layout.streams, layout.length)

    def blocks(self) -> Iterator[range]:
        """The steps of each block."""
        size = self._layout.block_steps
        for first in range(0, self._layout.steps, size):
            yield range(first, min(first + size, self._layout.steps))

    def code(self, steps: range, coder: Coder, watch: Watch) -> int:
        """Codes the tokens of these steps; the CRC-32 of their ids as int32, step by step."""
        check = 0
        for step in steps:
            check = zlib.crc32(self._step(step, coder).astype("<i4").tobytes(), check)
            watch(self._layout.tokens_before(step + 1), self._layout.tokens)
        return check

    def _step(self, step: int, coder: Coder) -> np.ndarray:
        """Codes the token of every stream at this step, first stream first; their ids (B,)."""
        active = self._layout.active(step)
        index_B = self._base_B[:active] + step
        logs_BV = self._distribution(step)[:active]
        if self._tilt is not None:
            logs_BV = self._tilt.tilted(logs_BV, *self.session.inputs(index_B))
        known_B = self.session.wanted(index_B) if self._known else None
        ids_B = coder.code(frequencies(logs_BV), known_B)
        chosen = torch.from_numpy(ids_B).to(logs_BV.device)
        nats_B = -logs_BV.gather(1, chosen[:, None])[:, 0].double().cpu().numpy()
        self.session.record(index_B, nats_B, None if self._known else ids_B)
        return ids_B

    def text_ids(self) -> np.ndarray:
        """The ids of the whole text, streams joined again."""
        parts = [
            self.session.inputs(base + 1 + np.arange(self._layout.stream_tokens(stream)))[0]
            for stream, base in enumerate(self._base_B)
        ]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def _distribution(self, step: int) -> Tensor:
        """Log-probabilities (B, V) of this step's targets: reads one token, or all a new window knows."""
        if step < self._window.stop:
            ids_B, is_start_B = self.session.inputs(self._base_B + step)
            return self._reader.step(torch.from_numpy(ids_B), torch.from_numpy(is_start_B))
        if self._learning.due(step):
            # Between windows, since what a memory holds was computed with the weights of its time.
            self._learning.learn(step)
        self._window = next(self._windows)
        known = np.arange(self._window.start, step + 1)
        ids_BT, is_start_BT = self.session.inputs(self._base_B[:, None] + known)
        return self._reader.begin(torch.from_numpy(ids_BT), torch.from_numpy(is_start_BT))


def _windows(layout: Layout) -> Iterator[Window]:
    return Sliding(layout.length, layout.stride).windows(np.array([0]), layout.steps)


def _session(tokenizer: Tokenizer, layout: Layout, ids: np.ndarray | None) -> tuple[Session, np.ndarray]:
    """A session over the streams laid end to end, and the offset of each.

    Every stream begins with bos. What follows its last token is no part of the text.
    """
    lengths_B = np.array([layout.stream_tokens(stream) for stream in range(layout.streams)], dtype=np.int64)
    base_B = np.cumsum([0, *(lengths_B[:-1] + 1)])[: layout.streams]
    joined = np.full(layout.tokens + layout.streams + 1, tokenizer.bos, dtype=np.int64)
    counted = np.ones(layout.tokens + layout.streams, dtype=bool)
    counted[base_B + lengths_B] = False
    starts = base_B if layout.streams else np.array([0])
    if ids is not None:
        of_text = np.ones(len(joined), dtype=bool)
        of_text[starts] = False
        of_text[-1] = False
        joined[of_text] = ids
    track = Track.adaptive() if layout.adaptive else Track.fixed()
    session = Session(tokenizer, joined, starts, track, counted=counted, known=ids is not None)
    return session, base_B


def _text_digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:8]


@contextmanager
def _arithmetic(model: LanguageModel, layout: Layout) -> Iterator[None]:
    """The precision and the threads that the encoder had, for as long as decoding takes."""
    threads, precision = torch.get_num_threads(), model.compute_dtype
    try:
        model.compute_dtype = _PRECISIONS[layout.precision]
    except KeyError as error:
        raise PackedError(
            f"packed in the unknown precision {layout.precision!r}; the file is damaged"
        ) from error
    torch.set_num_threads(layout.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        model.compute_dtype = precision


def _difference(layout: Layout, steps: range, device: torch.device) -> str:
    here = machine_name(device)
    other = "" if here == layout.machine else f" (packed on {layout.machine}; this is {here})"
    return (
        f"tokens {layout.tokens_before(steps.start):,} to {layout.tokens_before(steps.stop):,} do not come "
        f"out as they went in: the file is damaged, or this machine computes other probabilities{other}; "
        "unpack where it was packed"
    )
