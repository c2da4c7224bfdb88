"""The verdicts of `bytegolf prove` beside a run, and whether they are about its artifact."""

from bytegolf.report.headline import date
from bytegolf.report.markup import Html, count, decimals, join, pairs, table, tag
from bytegolf.report.run_folder import Run, find, number, rows

_CLASSES = {"pass": "pass", "fail": "fail", "not checked": "unchecked"}
_HASHES = (("Artifact", "artifact"), ("Text", "text"), ("Recipe", "recipe"), ("Program", "source"))


def proof(run: Run) -> Html:
    """A row a condition; empty without a certificate."""
    verdicts = rows(run.certificate, "verdicts")
    if not verdicts:
        return Html("")
    body = [
        (
            str(row.get("condition", "")),
            tag("span", str(row.get("outcome", "")), class_=_class(row.get("outcome"))),
            str(row.get("sentence", "")),
        )
        for row in verdicts
    ]
    made = table(("Condition", "Verdict", "What was found"), body, (), "Verdicts of bytegolf prove")
    return join([_about(run), made, pairs(_facts(run))])


def hint(run: Run) -> Html:
    """One line for a run whose score is not proved yet."""
    if run.certificate is not None or find(run.result, "artifact", "sha256") is None:
        return Html("")
    text = ["No certificate lies here: ", tag("code", "bytegolf prove artifact.bg")]
    return tag("p", *text, " tests whether these scores count.", class_="note")


def _class(outcome: object) -> str:
    return f"verdict {_CLASSES.get(str(outcome), 'unchecked')}"


def _about(run: Run) -> Html:
    """A warning where the certificate is about another file than this run's artifact."""
    proved, own = (
        find(run.certificate, "bound_to", "artifact_sha256"),
        find(run.result, "artifact", "sha256"),
    )
    if proved == own or own is None:
        return Html("")
    text = "This certificate is about another artifact than this run's; prove it again."
    return tag("p", text, class_="verdict fail")


def _facts(run: Run) -> list[tuple[str, str]]:
    score = find(run.certificate, "score")
    facts = [("Proved", date(find(run.certificate, "date")))]
    bits = number(score, "bits_per_byte")
    if bits is not None:
        plan = find(score, "plan")
        facts.append(
            ("Score", f"{decimals(bits, 4)} bits per byte of {count(number(score, 'bytes'))}, {plan}")
        )
    for name, key in _HASHES:
        digest = find(run.certificate, "bound_to", f"{key}_sha256")
        if digest:
            facts.append((f"{name} SHA-256", tag("code", str(digest))))
    return facts
