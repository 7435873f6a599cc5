"""Prevents wrong verdicts: ratios across repeats, a goal judged by its best repeat, a report without the spread."""

from pathlib import Path

import pytest

from tests.bench.figures import Goal, Spread, added_ttft_ms, goals, over, over_transformers, spread, tokens_ratio
from tests.bench.report import main, render
from tests.bench.results import Bench, Load, Measured, Process, Repeat, Window, percentile

MIB = 1024**2


def load(concurrency: int, tokens_per_s: float, ttft_ms: float) -> Load:
    return Load(
        concurrency=concurrency,
        wall_s=640 / tokens_per_s,
        prompt_tokens=1100,
        output_tokens=640,
        ttft_s=[ttft_ms / 1000] * 10,
        latency_s=[1.0] * 10,
    )


def measured(speed: float, ttft_ms: float, start_s: float, *concurrencies: int) -> Measured:
    processes = [
        Process(name="engine", rss_bytes=2000 * MIB, pss_bytes=1900 * MIB, cpu_s=50.0),
        Process(name="tracker", rss_bytes=12 * MIB, pss_bytes=6 * MIB, cpu_s=0.25),
    ]
    loads = [load(concurrency, speed * concurrency, ttft_ms) for concurrency in concurrencies]
    return Measured(start_s=start_s, processes=processes, others_share=0.031, loads=loads)


def repeat(ours: float, theirs: float, ttft_ms: float = 104.0) -> Repeat:
    """Tokens/s for each unit of concurrency; bare vLLM's first token takes 100 ms and its start 30 s."""
    return Repeat(
        product=measured(ours, ttft_ms, 36.0, 1, 16, 32),
        vllm=measured(theirs, 100.0, 30.0, 1, 16, 32),
        transformers=measured(20.0, 90.0, 10.0, 1, 32),
    )


def window(size: int | None, sequences: float, decoding: int) -> Window:
    return Window(
        window=size,
        kv_cache_tokens=round(sequences * 8192),
        max_model_len=8192,
        sequences=sequences,
        requests=12,
        prompt_tokens=12 * 6000,
        output_tokens=12 * 128,
        wall_s=60.0,
        peak_running=decoding,
        peak_decoding=decoding,
        peak_kv_usage=0.5,
        preemptions=0,
    )


def bench(repeats: list[Repeat], windows: list[Window]) -> Bench:
    return Bench(
        date="2030-01-02T03:04:05+00:00",
        machine={"cpu": "Some CPU", "cores": 2, "memory_bytes": 24 * 1024**3, "system": "Linux"},
        versions={"python": "3.11.0"},
        engine_arguments={},
        commands={},
        workload={},
        repeats=repeats,
        windows=windows,
    )


@pytest.mark.parametrize(("percent", "expected"), [(50, 3.0), (95, 4.8), (25, 2.0)])
def test_a_percentile_lies_between_the_nearest_ranks(percent: int, expected: float) -> None:
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], percent) == pytest.approx(expected)


def test_one_value_is_its_own_percentile() -> None:
    assert percentile([7.0], 95) == 7.0


def test_a_spread_is_the_smallest_the_median_and_the_largest() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)
    assert spread([1.0, 4.0]) == Spread(1.0, 2.5, 4.0)


def test_a_spread_is_written_as_the_median_with_its_ends() -> None:
    assert Spread(0.951, 0.98, 1.023).text(2) == "0.98 (0.95–1.02)"
    assert Spread(0.981, 0.98, 0.982).text(2) == "0.98"


def test_a_ratio_is_taken_within_a_repeat_and_never_across_repeats() -> None:
    slow_then_fast = [repeat(5.0, 5.0), repeat(10.0, 10.0), repeat(20.0, 20.0)]
    assert over(slow_then_fast, tokens_ratio(16)) == Spread(1.0, 1.0, 1.0)


def test_added_time_to_first_token_is_ours_less_theirs_in_milliseconds() -> None:
    assert added_ttft_ms(repeat(8.0, 8.0, ttft_ms=104.0)) == pytest.approx(4.0)


def test_transformers_is_compared_at_batch_1_with_the_product_at_32() -> None:
    assert over_transformers(repeat(10.0, 10.0)) == pytest.approx(10.0 * 32 / 20.0)


def test_the_median_decides_whether_a_goal_is_met() -> None:
    assert Goal("speed", Spread(0.5, 0.97, 0.99), 0.97, at_least=True, digits=2).met
    assert not Goal("speed", Spread(0.5, 0.96, 2.0), 0.97, at_least=True, digits=2).met
    assert Goal("time", Spread(1.0, 5.0, 50.0), 5, at_least=False, digits=1).met
    assert not Goal("time", Spread(1.0, 5.1, 6.0), 5, at_least=False, digits=1).met


def test_every_goal_is_judged_against_its_own_bound() -> None:
    judged = {goal.name: (goal.bound, goal.at_least, goal.met) for goal in goals([repeat(9.6, 10.0, ttft_ms=106.0)])}
    assert judged == {
        "tokens/s at 16, beside bare vLLM": (0.97, True, False),
        "tokens/s at 32, beside bare vLLM": (0.97, True, False),
        "time to first token added at 1": (5, False, False),
        "tokens/s at 32, beside transformers at batch 1": (8, True, True),
        "start to READY, beside bare vLLM": (1.3, False, True),
    }


def test_the_report_shows_goals_with_their_spread() -> None:
    text = render(bench([repeat(9.8, 10.0), repeat(10.0, 10.0), repeat(9.0, 10.0)], []))
    assert "| tokens/s at 16, beside bare vLLM | ≥ 0.97× | 0.980 (0.900–1.000)× | met |" in text
    assert "| time to first token added at 1 | ≤ 5 ms | 4.0 ms | met |" in text
    assert "| start to READY, beside bare vLLM | ≤ 1.3× | 1.20× | met |" in text


def test_the_report_shows_each_system_at_each_concurrency() -> None:
    text = render(bench([repeat(10.0, 10.0)], []))
    assert "| mistral-serve | 16 | 10 | 160.0 | 104 | 104 |" in text
    assert "| bare vLLM | 32 | 10 | 320.0 | 100 | 100 |" in text
    assert "| transformers | batch 1 | 10 | 20.0 | 90 | 90 |" in text


def test_the_report_sums_up_small_processes() -> None:
    text = render(bench([repeat(10.0, 10.0)], []))
    assert "| mistral-serve | 36.0 | 2 | 1906 | 3.1% |" in text
    assert "| mistral-serve | `engine` | 2000 | 1900 | 50.0 |" in text
    assert "| mistral-serve | 1 smaller | 12 | 6 | 0.2 |" in text


def test_the_report_compares_the_window_with_full_attention() -> None:
    text = render(bench([], [window(1024, 3.75, 10), window(None, 1.5, 1)]))
    assert "|  | window of 1024 | full attention | ratio |" in text
    assert "| sequences of 8192 tokens at once (vLLM's count) | 3.8 | 1.5 | 2.5× |" in text
    assert "| of 12 prompts of 6000 tokens: decoding at once, at most | 10 | 1 | 10.0× |" in text


def test_a_part_that_was_not_measured_is_left_out() -> None:
    only_window = render(bench([], [window(1024, 3.75, 10), window(None, 1.5, 1)]))
    assert "Goals" not in only_window
    assert "Sliding window" not in render(bench([repeat(10.0, 10.0)], []))


def test_the_file_that_a_run_writes_gives_the_same_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = bench([repeat(10.0, 10.0)], [window(1024, 3.75, 10), window(None, 1.5, 1)])
    file = tmp_path / "bench.json"
    file.write_text(run.model_dump_json(indent=1), encoding="utf-8")
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == render(run) + "\n"


def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text('{"date": "today"}', encoding="utf-8")
    for name in ("none.json", "other.json"):
        assert main([str(tmp_path / name)]) == 2
        assert f"{name} cannot be read as a result of the bench" in capsys.readouterr().err
