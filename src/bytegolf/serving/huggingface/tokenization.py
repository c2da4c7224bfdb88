"""An exported model's tokenizer, as the Hugging Face library loads it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizer

from bytegolf.tokens.tokenizer import Tokenizer, tokenizer_from_bytes

_FILE = "tokenizer.bin"
_FIRST = "<|document|>"


class BytegolfTokenizer(PreTrainedTokenizer):
    """Exact over bytes: ids are joined to the bytes that they stand for, and any text comes back as it was.

    Tokens are written as their bytes and their id, such as "the#512", since two ids may have equal bytes. The
    id that begins documents stands before every text.
    """

    vocab_files_names = {"table_file": _FILE}  # noqa: RUF012 (as the library has it)
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, table_file: str, **settings: Any) -> None:
        self._table = Path(table_file)
        self._tokenizer: Tokenizer = tokenizer_from_bytes(self._table.read_bytes())
        begin = self._written(self._tokenizer.bos)
        settings = {"bos_token": begin, "eos_token": begin, "pad_token": begin, **settings}
        super().__init__(**settings)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocabulary

    def get_vocab(self) -> dict[str, int]:
        return {self._written(number): number for number in range(self.vocab_size)}

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Each text as a document."""
        begin = [self._tokenizer.bos]
        return begin + token_ids_0 + ([] if token_ids_1 is None else begin + token_ids_1)

    def _tokenize(self, text: str, **others: Any) -> list[str]:
        return [self._written(int(number)) for number in self._tokenizer.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        number = token.rpartition("#")[2]
        return int(number) if number.isdecimal() else self._tokenizer.bos

    def _convert_id_to_token(self, index: int) -> str:
        return self._written(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        ids = np.array([self._convert_token_to_id(token) for token in tokens], dtype=np.int64)
        return self._tokenizer.decode(ids).decode("utf-8", errors="replace")

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        target = Path(save_directory) / (f"{filename_prefix}-{_FILE}" if filename_prefix else _FILE)
        if target.resolve() != self._table.resolve():
            shutil.copyfile(self._table, target)
        return (str(target),)

    def _written(self, number: int) -> str:
        if number == self._tokenizer.bos:
            return _FIRST
        shown = self._tokenizer.token_bytes[number].decode("utf-8", errors="backslashreplace")
        return f"{shown}#{number}"
