"""The 22 tasks: where their items lie, how they are asked, and what guessing gives."""

from dataclasses import dataclass
from typing import Literal

from bytegolf.errors import RecipeError

#: multiple_choice: one query, several continuations. schema: several contexts, one continuation. In both the
#: option with the lowest mean −ln p a token is the answer. language_modeling: the model's likeliest tokens
#: have to be the continuation's.
Kind = Literal["multiple_choice", "schema", "language_modeling"]


@dataclass(frozen=True)
class Task:
    """One task. file: its items, below eval_data/ of the bundle, as JSON lines.

    shots: solved items before the one that is asked. delimiter: between a query and its continuation.
    baseline: the accuracy of guessing, 0 to 1.
    """

    label: str
    file: str
    kind: Kind
    shots: int
    baseline: float = 0.0
    delimiter: str = " "

    def centered(self, accuracy: float) -> float:
        """0 for guessing, 1 for all right, below 0 for worse than guessing."""
        return (accuracy - self.baseline) / (1.0 - self.baseline)


_ANSWER = "\nAnswer: "
_COMMON, _KNOWLEDGE = "commonsense_reasoning/", "world_knowledge/"
_LANGUAGE, _READING = "language_understanding/", "reading_comprehension/"
_SYMBOLS = "symbolic_problem_solving/"
_CHOICE: Kind = "multiple_choice"
_WRITE: Kind = "language_modeling"

TASKS = (
    Task("hellaswag_zeroshot", _LANGUAGE + "hellaswag.jsonl", _CHOICE, 0, 0.25),
    Task("jeopardy", _KNOWLEDGE + "jeopardy_all.jsonl", _WRITE, 10, delimiter=_ANSWER),
    Task("bigbench_qa_wikidata", _KNOWLEDGE + "bigbench_qa_wikidata.jsonl", _WRITE, 10),
    Task("arc_easy", _KNOWLEDGE + "arc_easy.jsonl", _CHOICE, 10, 0.25, _ANSWER),
    Task("arc_challenge", _KNOWLEDGE + "arc_challenge.jsonl", _CHOICE, 10, 0.25, _ANSWER),
    Task("copa", _COMMON + "copa.jsonl", _CHOICE, 0, 0.5),
    Task("commonsense_qa", _COMMON + "commonsense_qa.jsonl", _CHOICE, 10, 0.2),
    Task("piqa", _COMMON + "piqa.jsonl", _CHOICE, 10, 0.5, _ANSWER),
    Task("openbook_qa", _COMMON + "openbook_qa.jsonl", _CHOICE, 0, 0.25),
    Task("lambada_openai", _LANGUAGE + "lambada_openai.jsonl", _WRITE, 0),
    Task("hellaswag", _LANGUAGE + "hellaswag.jsonl", _CHOICE, 10, 0.25),
    Task("winograd", _LANGUAGE + "winograd_wsc.jsonl", "schema", 0, 0.5),
    Task("winogrande", _LANGUAGE + "winogrande.jsonl", "schema", 0, 0.5),
    Task("bigbench_dyck_languages", _SYMBOLS + "bigbench_dyck_languages.jsonl", _WRITE, 10),
    Task("agi_eval_lsat_ar", _SYMBOLS + "agi_eval_lsat_ar.jsonl", _CHOICE, 3, 0.2),
    Task("bigbench_cs_algorithms", _SYMBOLS + "bigbench_cs_algorithms.jsonl", _WRITE, 10),
    Task("bigbench_operators", _SYMBOLS + "bigbench_operators.jsonl", _WRITE, 10),
    Task("bigbench_repeat_copy_logic", _SYMBOLS + "bigbench_repeat_copy_logic.jsonl", _WRITE, 10),
    Task("squad", _READING + "squad.jsonl", _WRITE, 10),
    Task("coqa", _READING + "coqa.jsonl", _WRITE, 0),
    Task("boolq", _READING + "boolq.jsonl", _CHOICE, 10, 0.62, _ANSWER),
    Task(
        "bigbench_language_identification",
        _LANGUAGE + "bigbench_language_identification.jsonl",
        _CHOICE,
        10,
        0.091,
    ),
)


def tasks_named(labels: tuple[str, ...]) -> tuple[Task, ...]:
    """These tasks, in the order of `TASKS`; all of them where no label is given.

    Raises `RecipeError` for a label that there is not.
    """
    known = {task.label for task in TASKS}
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise RecipeError(
            f"task {unknown[0]!r} is unknown; there are {', '.join(task.label for task in TASKS)}"
        )
    return tuple(task for task in TASKS if not labels or task.label in labels)
