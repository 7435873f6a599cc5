"""The two curves of the overload as a picture: every answer a dot, by when it was asked for and how long it took."""

import math

from tests.bench.overload import OverloadBench

WIDTH, HEIGHT, MARGIN = 900, 420, 60
SHORTEST_S, LONGEST_S = 0.001, 100.0
COLOURS = {200: "#1b7f5c", 429: "#c0492f"}
NAMES = {200: "accepted: time to first token", 429: "refused with 429: time to the answer"}


def picture(bench: OverloadBench) -> str:
    """An SVG image; the axis of times is logarithmic."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for power in range(-3, 3):
        height = _y(10.0**power)
        parts.append(f'<path d="M{MARGIN} {height}H{WIDTH - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 8}" y="{height + 4}" text-anchor="end">{10.0**power:g} s</text>')
    objective = _y(bench.objective_s)
    parts.append(f'<path d="M{MARGIN} {objective}H{WIDTH - 20}" stroke="black" stroke-dasharray="5 4"/>')
    parts.append(f'<text x="{WIDTH - 24}" y="{objective - 5}" text-anchor="end">objective</text>')
    for outcome in bench.outcomes:
        x, y = _x(outcome.sent_s / bench.seconds), _y(outcome.answered_s)
        parts.append(f'<circle cx="{x}" cy="{y}" r="2" fill="{COLOURS[outcome.status]}" fill-opacity="0.5"/>')
    for index, (status, name) in enumerate(NAMES.items()):
        parts.append(f'<text x="{MARGIN + 300 * index}" y="20" fill="{COLOURS[status]}">{name}</text>')
    seconds = f"sent after 0 to {bench.seconds:.0f} s"
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{seconds}</text></svg>')
    return "\n".join(parts) + "\n"


def _x(share: float) -> float:
    return round(MARGIN + share * (WIDTH - 20 - MARGIN), 1)


def _y(seconds: float) -> float:
    place = math.log10(max(seconds, SHORTEST_S) / SHORTEST_S) / math.log10(LONGEST_S / SHORTEST_S)
    return round(HEIGHT - 40 - place * (HEIGHT - 80), 1)
