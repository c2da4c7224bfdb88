"""The text of a recipe: which documents, and which of them are held out."""

from dataclasses import dataclass

from bytegolf.errors import RecipeError, TextError
from bytegolf.text.copies import copies
from bytegolf.text.readers import read_documents
from bytegolf.text.split import Split, split_documents


@dataclass(frozen=True)
class Text:
    """Sources of documents and how to split them. See `read_documents` for what a source can be."""

    sources: tuple[str, ...]
    validation: tuple[str, ...] = ()
    """Sources to score on; without any, documents of `sources` are held out."""
    field: str = "text"
    cut_bytes: int = 0
    held_out: float = 1 / 12
    near_duplicate: float = 0.1
    split_seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources or not all(self.sources):
            raise RecipeError(
                f"sources is {self.sources!r}; name at least one file, folder, 'kjv' or 'python'"
            )
        if not all(self.validation):
            raise RecipeError(f"validation is {self.validation!r}; leave it empty or name files")
        if not self.field:
            raise RecipeError("field is empty; name the field that holds the text, such as 'text'")
        if self.cut_bytes < 0:
            raise RecipeError(f"cut_bytes is {self.cut_bytes}; use 0 for whole files, or a size such as 3000")
        if not 0 < self.held_out < 1:
            raise RecipeError(f"held_out is {self.held_out}; choose a share between 0 and 1, such as 0.1")
        if not 0 < self.near_duplicate <= 1:
            raise RecipeError(f"near_duplicate is {self.near_duplicate}; choose a share up to 1, such as 0.1")
        if self.split_seed < 0:
            raise RecipeError(f"split_seed is {self.split_seed}; use 0 or a positive number")


def load_text(spec: Text) -> Split:
    """Reads and splits. With validation sources, nothing is held out, and their copies leave training.

    These are documents equal to one of them, and those with the share `near_duplicate` of its 13-grams.
    """
    documents = list(read_documents(spec.sources, field=spec.field, cut_bytes=spec.cut_bytes))
    if not documents:
        raise TextError(f"the text {', '.join(spec.sources)} is empty; give files that hold some")
    if not spec.validation:
        return split_documents(
            documents, held_out=spec.held_out, seed=spec.split_seed, near_duplicate=spec.near_duplicate
        )
    validation = list(read_documents(spec.validation, field=spec.field, cut_bytes=spec.cut_bytes))
    if not validation:
        raise TextError(
            f"the validation text {', '.join(spec.validation)} is empty; give files that hold some"
        )
    known = {document.text for document in validation}
    training = [document for document in documents if document.text not in known]
    if not training:
        raise TextError("every training document is also a validation document; give different files")
    near = copies(training, validation, spec.near_duplicate)
    training = [document for index, document in enumerate(training) if index not in near]
    if not training:
        raise TextError(
            "every training document repeats parts of validation documents; give different files, "
            "or raise near_duplicate"
        )
    distinct = len(known | {document.text for document in training})
    return Split(training, validation, clusters=distinct, dropped=len(documents) - len(training))
