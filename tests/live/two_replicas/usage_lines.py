"""What the usage log of two replicas holds of one key."""

import json
from pathlib import Path
from typing import Any


def lines_of(usage: Path, key: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of a key in each file, so of each replica."""
    found = {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in usage.iterdir()}
    return {name: own for name, lines in found.items() if (own := [line for line in lines if line["key"] == key])}
