#!/bin/sh
# Brings .venv to the state of the lock files: `environment.sh run` or `environment.sh test`.
#
# Where the python at hand imports a CUDA torch >= 2.11, .venv inherits that torch (and its triton) and the
# rest comes from requirements/gpu.txt; everywhere else all of it comes from requirements/cpu.txt.
# A stamp per purpose makes an unchanged environment cost milliseconds.
set -eu
cd "$(dirname "$0")/.."

purpose=${1:-run}
python=${PYTHON:-python3}
in_venv=.venv/bin/python
stamp=.venv/stamp-$purpose

fail() {
    echo "bytegolf: $1" >&2
    exit 2
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

has_cuda_torch() {
    "$1" - 2>/dev/null <<'END'
import sys, torch
version = tuple(int(part) for part in torch.__version__.split(".")[:2])
sys.exit(not (version >= (2, 11) and torch.cuda.is_available()))
END
}

inherits() {
    grep -qi '^include-system-site-packages *= *true' .venv/pyvenv.cfg
}

create() {
    # Without the venv module's own pip (Debian's python3-venv left out) creation fails half way.
    "$python" -m venv --clear "$@" .venv >/dev/null || {
        rm -rf .venv
        fail "'$python -m venv' failed; install the venv module of $python (Debian: apt install python3-venv)"
    }
}

install() {
    "$in_venv" -m pip install -qq --disable-pip-version-check --no-input "$@"
}

case $purpose in
    run) locks="" ;;
    test) locks="requirements/dev.txt" ;;
    *) fail "purpose is '$purpose'; 'run' or 'test' is needed" ;;
esac

# The path counts: an editable install points at the folder it was made in.
wanted=$(pwd; cat requirements/*.txt pyproject.toml scripts/environment.sh | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && [ -x "$in_venv" ]; then
    exit 0
fi

command -v "$python" >/dev/null 2>&1 ||
    fail "'$python' was not found; install python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11 ..."
new_enough "$python" ||
    fail "'$python' is $("$python" -V 2>&1 | head -n 1); 3.11 or newer is needed, name one: make PYTHON=/path/to/python3.11 ..."

if ! { new_enough "$in_venv" && "$in_venv" -m pip --version; } >/dev/null 2>&1; then
    if has_cuda_torch "$python"; then
        create --system-site-packages
        # A python that is itself a virtual environment hands nothing down.
        has_cuda_torch "$in_venv" || create
    else
        create
    fi
fi

rm -f "$stamp"
if inherits; then
    echo "Installing into .venv (requirements/gpu.txt; torch comes from $python) ..."
    locks="requirements/gpu.txt $locks"
else
    echo "Installing into .venv (requirements/cpu.txt) ..."
    locks="requirements/cpu.txt $locks"
    # First and alone, at this very version: a looser wish for torch takes the newest one, which the default
    # index serves with gigabytes of CUDA libraries. Its own dependencies follow the lock file.
    install --constraint requirements/cpu.txt "$(grep '^torch==' requirements/cpu.txt)"
fi
set --
for lock in $locks; do
    set -- "$@" --requirement "$lock"
done
# The lock files are complete, so nothing beyond them may be resolved or fetched.
install --no-deps "$@"
install --no-deps --no-build-isolation --editable .
echo "$wanted" >"$stamp"
