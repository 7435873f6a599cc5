"""The figures as Markdown: ``python -m tests.bench.report results/bench.json``."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bench.figures import Goal, concurrencies, goals, spread
from tests.bench.results import Bench, Measured, Process, Repeat, Window

SYSTEMS = {"product": "mistral-serve", "vllm": "bare vLLM", "transformers": "transformers"}
GIB = 1024**3
MIB = 1024**2
SMALL = 10 * MIB


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; every column but the first is right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def render(bench: Bench) -> str:
    """The report on one run: each part that was measured."""
    parts = [conditions(bench)]
    if bench.repeats:
        parts += ["**Goals**", goals_table(bench.repeats), "**Throughput and time to first token**"]
        parts += [throughput_table(bench.repeats), "**Start and idle memory**", start_table(bench.repeats)]
        parts += ["**Processes, in the first repeat**", process_table(bench.repeats[0])]
    if bench.windows:
        parts += ["**Sliding window**", window_table(bench.windows)]
    return "\n\n".join(parts)


def conditions(bench: Bench) -> str:
    """When, on what and with what."""
    machine = bench.machine
    memory = f"{machine['memory_bytes'] / GIB:.0f} GiB"
    packages = ", ".join(f"{name} {version}" for name, version in bench.versions.items())
    text = f"{bench.date}, {machine['cpu']}, {machine['cores']} cores, {memory} of memory; {packages}."
    if len(bench.repeats) < 2:
        return text
    return f"{text} {len(bench.repeats)} repeats; cells are median (smallest–largest) over them."


def goals_table(repeats: Sequence[Repeat]) -> str:
    """Each goal, what was measured, and whether the median meets it."""
    return table(["goal", "wanted", "measured", ""], [goal_row(goal) for goal in goals(repeats)])


def goal_row(goal: Goal) -> list[str]:
    """The cells of one goal."""
    wanted = f"{'≥' if goal.at_least else '≤'} {goal.bound:g}{goal.unit}"
    return [goal.name, wanted, f"{goal.spread.text(goal.digits)}{goal.unit}", "met" if goal.met else "**missed**"]


def throughput_table(repeats: Sequence[Repeat]) -> str:
    """Output tokens/s and time to first token of each system at each concurrency."""
    rows = []
    for key, name in SYSTEMS.items():
        for concurrency in concurrencies(_of(repeats[0], key)):
            loads = [_of(repeat, key).load(concurrency) for repeat in repeats]
            at = f"batch {concurrency}" if key == "transformers" else str(concurrency)
            rows.append(
                [
                    name,
                    at,
                    len(loads[0].ttft_s),
                    spread(load.tokens_per_s for load in loads).text(1),
                    spread(load.ttft_p50_s * 1000 for load in loads).text(0),
                    spread(load.ttft_p95_s * 1000 for load in loads).text(0),
                ]
            )
    return table(["system", "concurrency", "requests", "output tokens/s", "TTFT p50, ms", "TTFT p95, ms"], rows)


def start_table(repeats: Sequence[Repeat]) -> str:
    """Seconds until each system can serve, what it takes while it idles, and how quiet the machine was."""
    rows = []
    for key, name in SYSTEMS.items():
        starts = [_of(repeat, key) for repeat in repeats]
        start = spread(one.start_s for one in starts)
        memory = spread(one.pss_bytes / MIB for one in starts)
        others = max(one.others_share for one in starts)
        rows.append([name, start.text(1), len(starts[0].processes), memory.text(0), f"{others:.1%}"])
    return table(
        ["system", "start to ready, s", "processes", "idle memory (PSS), MiB", "CPU of other programs, at most"],
        rows,
    )


def process_table(repeat: Repeat) -> str:
    """The processes of the two servers in one repeat; those that take less than 10 MiB are summed up."""
    rows: list[list[object]] = []
    for key in ("product", "vllm"):
        processes = _of(repeat, key).processes
        large = [process for process in processes if process.pss_bytes >= SMALL]
        small = [process for process in processes if process.pss_bytes < SMALL]
        rows += [[SYSTEMS[key], f"`{process.name}`", *_use_of([process])] for process in large]
        rows.append([SYSTEMS[key], f"{len(small)} smaller", *_use_of(small)])
    return table(["system", "process", "idle RSS, MiB", "idle PSS, MiB", "CPU time under load, s"], rows)


def window_table(windows: Sequence[Window]) -> str:
    """What fits with the window and without, and the ratio."""
    with_window, without = windows
    length = with_window.max_model_len
    tokens = with_window.prompt_tokens // with_window.requests
    rows: list[list[object]] = [
        _compared("KV cache, tokens (vLLM's count)", with_window.kv_cache_tokens, without.kv_cache_tokens, 0),
        _compared(f"sequences of {length} tokens at once (vLLM's count)", with_window.sequences, without.sequences, 1),
        _compared(
            f"of {with_window.requests} prompts of {tokens} tokens: decoding at once, at most",
            with_window.peak_decoding,
            without.peak_decoding,
            0,
        ),
        ["… admitted at once, at most", with_window.peak_running, without.peak_running, ""],
        ["… sent back to wait (preemptions)", with_window.preemptions, without.preemptions, ""],
        ["… KV cache in use, at most", f"{with_window.peak_kv_usage:.0%}", f"{without.peak_kv_usage:.0%}", ""],
        ["… all finished after, s", f"{with_window.wall_s:.1f}", f"{without.wall_s:.1f}", ""],
    ]
    return table(["", f"window of {with_window.window}", "full attention", "ratio"], rows)


def _compared(name: str, ours: float, theirs: float, digits: int) -> list[object]:
    return [name, f"{ours:,.{digits}f}", f"{theirs:,.{digits}f}", f"{ours / theirs:.1f}×"]


def _use_of(processes: Sequence[Process]) -> list[str]:
    rss, pss = sum(process.rss_bytes for process in processes), sum(process.pss_bytes for process in processes)
    return [f"{rss / MIB:.0f}", f"{pss / MIB:.0f}", f"{sum(process.cpu_s for process in processes):.1f}"]


def _of(repeat: Repeat, system: str) -> Measured:
    measured = getattr(repeat, system)
    assert isinstance(measured, Measured)
    return measured


def main(argv: Sequence[str]) -> int:
    """Print the report on the file that the one argument names; 2 when it cannot be read."""
    if len(argv) != 1:
        print("usage: python -m tests.bench.report FILE", file=sys.stderr)
        return 2
    try:
        bench = Bench.model_validate_json(Path(argv[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        print(f"report: {argv[0]} cannot be read as a result of the bench: give a file that it wrote", file=sys.stderr)
        return 2
    print(render(bench))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
