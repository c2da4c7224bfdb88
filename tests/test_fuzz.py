"""Some hundred damaged files for the readers: read soundly or refused in one line, within time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INPUTS = 60
# In a process of its own, whose memory can be limited and which may die.
SCRIPT = f"""
import json, sys
from pathlib import Path
from random import Random
sys.path.insert(0, "benchmarks")
import torch
from fuzz import RATIO, attempt
from fuzz_readers import readers

torch.set_num_threads(1)
outcomes = {{}}
for reader in readers(Path(sys.argv[1])):
    outcomes[reader.name] = []
    for index in range({INPUTS} + 5):
        data = reader.damage(Random(f"test {{reader.name}} {{index}}"))
        # What is built once, in the library or here, is not the input's.
        limit = reader.memory + RATIO * len(data) if index >= 5 else None
        outcomes[reader.name].append(attempt(reader, data, limit)[0])
print(json.dumps(outcomes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited in the way of Linux")
def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert {"artifact", "artifact_load", "tokenizer", "shard", "prepared_folder"} <= outcomes.keys()
    for name, found in outcomes.items():
        bad = [outcome for outcome in found if outcome.partition(": ")[0] not in ("read", "refused")]
        assert not bad, name
        refused = sum(outcome.startswith("refused") for outcome in found)
        assert refused > INPUTS / 5, name
