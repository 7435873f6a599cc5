#!/usr/bin/env bash
# Resolves requirements/*.in into pinned sets for Linux on x86-64. Needs uv; the CPU set needs a CPU build of torch in PIP_FIND_LINKS.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
compile() {
    uv pip compile "$1.in" -o "$1.txt" --upgrade --quiet --no-annotate --no-header \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 "${@:2}"
}
compile cpu --override cpu-overrides.txt --find-links "${PIP_FIND_LINKS:?name the folder that holds the CPU build of torch}"
# Without the local version label the pin also holds where the CPU build has another label or none.
sed -i 's/+cpu//' cpu.txt
compile gpu
compile dev
