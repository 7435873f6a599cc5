#!/usr/bin/env bash
# Writes docs/licences.md: the licence that each pinned package of the CPU environment declares.
set -euo pipefail
cd "$(dirname "$0")/.."
{
    echo "# Licences"
    echo
    echo "mistral-serve is Apache-2.0. What each package of the CPU environment declares about itself (\`make docs\` writes this page):"
    echo
    grep -oE '^[A-Za-z0-9._-]+' requirements/cpu.txt | xargs .venv/bin/pip-licenses --from=mixed --format=markdown --packages |
        sed -E 's/ +\|/ |/g; s/-{4,}/---/g'
    echo
    echo "The demo model's weights are SmolLM2-135M-Instruct, Apache-2.0; its directory holds a notice. The GPU set adds CUDA"
    echo "libraries of NVIDIA under NVIDIA's own terms; \`requirements/gpu.txt\` lists them."
} >docs/licences.md
