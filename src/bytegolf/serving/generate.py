"""Writing with a model: the prompt once, then a token at a time through the decoding memory.

Shapes: V vocabulary, B = 1 row, T tokens.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.decoding import Reader
from bytegolf.model.spec import LanguageModel
from bytegolf.tokens.tokenizer import Tokenizer, text_ids


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | bytes,
    *,
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = 0,
    stop_at_document_end: bool = True,
    context: int | None = None,
) -> Iterator[bytes]:
    """Continues `prompt` as the beginning of a document; yields the bytes of each new token.

    A character may be spread over several tokens, so only the joined bytes are text. A marker of capitals has
    no bytes of its own; where the model misplaces one, it acts as `CapsStream` says. temperature 0 takes
    the likeliest token. top_k keeps the k likeliest tokens, top_p the fewest whose probabilities reach p
    (Holtzman et al. 2020). seed None draws differently each time. The token that begins a document is never
    written: choosing it ends the text, or, without `stop_at_document_end`, it is not among the choices.
    `context` is the length the model was trained on: where it would see more tokens, the memory starts
    afresh from the last half of them. Raises `RecipeError` for a setting that cannot work.
    """
    _check(tokens, temperature, top_k, top_p, context)
    allowed_V = torch.from_numpy(text_ids(tokenizer))
    allowed_V[tokenizer.bos] = stop_at_document_end
    chooser = _Chooser(temperature, top_k, top_p, seed, allowed_V)
    ids = [tokenizer.bos, *(int(token) for token in tokenizer.encode(prompt))]
    return _continue(model, tokenizer, ids, tokens, chooser, context)


def text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | bytes,
    *,
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = 0,
    stop_at_document_end: bool = True,
    context: int | None = None,
) -> str:
    """The continuation of `prompt` as one string (see `generate`); the prompt itself is not part of it.

    Bytes are joined before they are decoded, so only what is no UTF-8 as a whole, such as a character cut
    off at the end, becomes U+FFFD.
    """
    pieces = generate(
        model,
        tokenizer,
        prompt,
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_at_document_end=stop_at_document_end,
        context=context,
    )
    return b"".join(pieces).decode("utf-8", errors="replace")


class _Chooser:
    """Draws an id from a distribution. On the CPU in float64, so that a seed means the same anywhere."""

    def __init__(
        self, temperature: float, top_k: int | None, top_p: float | None, seed: int | None, allowed_V: Tensor
    ) -> None:
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self._allowed_V = allowed_V
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def choose(self, log_probabilities_V: Tensor) -> int:
        """The id that follows."""
        logits_V = log_probabilities_V.double().cpu().masked_fill(~self._allowed_V, -torch.inf)
        if self._temperature == 0:
            return int(logits_V.argmax())
        sorted_V, ids_V = torch.softmax(logits_V / self._temperature, dim=0).sort(
            descending=True, stable=True
        )
        kept = len(sorted_V) if self._top_k is None else min(self._top_k, len(sorted_V))
        cumulative_V = sorted_V[:kept].cumsum(0)
        if self._top_p is not None:
            # The token that crosses p is still kept.
            reach = self._top_p * float(cumulative_V[-1])
            kept = min(kept, int((cumulative_V < reach).sum()) + 1)
        total = float(cumulative_V[kept - 1])
        drawn = float(torch.rand((), generator=self._generator, dtype=torch.float64)) * total
        # right: a draw of exactly 0 must not land on a token of probability 0.
        place = int(torch.searchsorted(cumulative_V[:kept], drawn, right=True))
        return int(ids_V[min(place, kept - 1)])


@torch.no_grad()
def _continue(
    model: LanguageModel,
    tokenizer: Tokenizer,
    ids: list[int],
    tokens: int,
    chooser: _Chooser,
    context: int | None,
) -> Iterator[bytes]:
    reader = Reader(model, 1, context)
    decode = tokenizer.decoder()
    for token in ids:
        # What the prompt leaves open, such as a word in capitals, goes on.
        decode(token)
    for written in range(tokens):
        if not written or reader.position == context:
            read_T = torch.tensor(ids if context is None or len(ids) <= context else ids[-(context // 2) :])
            logs_BV = reader.begin(read_T[None], read_T[None] == tokenizer.bos)
        else:
            logs_BV = reader.step(torch.tensor(ids[-1:]), torch.tensor([False]))
        chosen = chooser.choose(logs_BV[0])
        if chosen == tokenizer.bos:
            return
        yield decode(chosen)
        ids.append(chosen)


def _check(
    tokens: int, temperature: float, top_k: int | None, top_p: float | None, context: int | None
) -> None:
    if tokens < 0:
        raise RecipeError(f"tokens={tokens}; give the number of tokens to write, 0 or more")
    if not 0 <= temperature < float("inf"):
        raise RecipeError(f"temperature={temperature}; give 0 for the likeliest token, or a positive number")
    if top_k is not None and top_k < 1:
        raise RecipeError(f"top_k={top_k}; give at least 1, or None to keep every token")
    if top_p is not None and not 0 < top_p <= 1:
        raise RecipeError(f"top_p={top_p}; give a probability above 0, up to 1, or None to keep every token")
    if context is not None and context < 2:
        raise RecipeError(f"context={context}; give at least 2 tokens, or None for no bound")
