"""metrics.jsonl: a line an event, on disk at once, continued by a resumed run."""

import json
import math
from pathlib import Path

from bytegolf.tokens.ledger import bits_per_byte
from bytegolf.training.record import Record


def test_each_event_is_on_disk_as_one_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record = Record(path)
    record.write("train", step=1, loss=2.5)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"event": "train", "step": 1, "loss": 2.5}
    ]
    record.write("stage", name="late\nquantization")
    assert len(path.read_text().splitlines()) == 2
    record.close()
    again = Record(path)
    again.write("resume", step=1)
    again.close()
    again.close()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == [
        "train",
        "stage",
        "resume",
    ]


def test_ranks_that_do_not_lead_record_nothing() -> None:
    record = Record(None)
    record.write("train", step=1)
    record.close()


def test_bits_per_byte() -> None:
    assert bits_per_byte(8 * math.log(2), 4) == 2.0
    assert math.isnan(bits_per_byte(1.0, 0))


def test_what_a_killed_run_left_of_its_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event": "train", "step": 1}\n{"event": "tra')
    again = Record(path)
    again.write("resume", step=1)
    again.close()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["train", "resume"]
