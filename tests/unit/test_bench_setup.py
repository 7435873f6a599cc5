"""Prevents a comparison of unlike things: flags that vLLM reads otherwise, prompts that a prefix cache helps with, a
"full attention" model that still has its window.
"""

import json
from pathlib import Path

import psutil
import pytest

from tests.bench.__main__ import output_of, parse
from tests.bench.processes import Family, describe
from tests.bench.prompts import prompt, prompts
from tests.bench.results import Process
from tests.bench.setup import as_flags, shell_line
from tests.bench.window import copy_without_window
from tests.bench.workload import CONCURRENCIES, FULL, PROMPT_WORDS, QUICK, WARM_UP, Workload, new_prompts


def test_engine_arguments_become_vllms_flags() -> None:
    arguments = {
        "max_model_len": 8192,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "limit_mm_per_prompt": {"image": 0},
        "dtype": "auto",
    }
    assert as_flags(arguments) == [
        *("--max-model-len", "8192"),
        "--enforce-eager",
        "--no-enable-prefix-caching",
        *("--limit-mm-per-prompt", '{"image": 0}'),
        *("--dtype", "auto"),
    ]


def test_a_command_is_shown_as_one_types_it() -> None:
    assert (
        shell_line(["python", "serve.py", "--name", "a b"], {"CORES": "0,1"})
        == "CORES=0,1 python serve.py --name 'a b'"
    )


def test_a_prompt_has_so_many_words_and_differs_from_the_first_one_on() -> None:
    first, second = prompts("nonce", 7, 2, 100)
    assert (len(first.split()), first.split()[0], second.split()[0]) == (100, "nonce-7", "nonce-8")


def test_two_runs_send_the_same_words_behind_different_beginnings() -> None:
    one, other = prompt("one", 3, 50).split(), prompt("other", 3, 50).split()
    assert one[0] != other[0]
    assert one[1:] == other[1:]


@pytest.mark.parametrize("workload", [FULL, QUICK])
def test_no_prompt_of_a_repeat_is_sent_twice(workload: Workload) -> None:
    made = new_prompts(workload)
    texts = [*made.warm_up, *(text for load in made.loads.values() for text in load)]
    assert len({text.split()[0] for text in texts}) == len(texts) == WARM_UP + sum(workload.requests.values())
    assert {len(text.split()) for text in texts} == {PROMPT_WORDS}


@pytest.mark.parametrize("workload", [FULL, QUICK])
def test_every_concurrency_gets_whole_rounds_and_transformers_only_prompts_that_exist(workload: Workload) -> None:
    assert tuple(workload.requests) == CONCURRENCIES
    assert [count % concurrency for concurrency, count in workload.requests.items()] == [0, 0, 0]
    assert all(size * count <= workload.requests[size] for size, count in workload.batches.items())


def test_the_copy_without_a_window_shares_the_weights_and_differs_in_the_window_alone(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "mistral", "sliding_window": 1024}))
    (model / "model.safetensors").write_bytes(b"weights")
    copy = copy_without_window(model, tmp_path / "copy")
    assert json.loads((copy / "config.json").read_text()) == {"model_type": "mistral", "sliding_window": None}
    assert (copy / "model.safetensors").resolve() == model / "model.safetensors"
    assert json.loads((model / "config.json").read_text())["sliding_window"] == 1024


@pytest.mark.parametrize(
    ("name", "command", "expected"),
    [
        ("haproxy", ["/somewhere/haproxy", "-f", "x.cfg"], "haproxy"),
        ("python3.11", ["/somewhere/python", "/somewhere/serve.py", "--port", "1"], "serve.py"),
        ("python", ["python", "-m", "deploy.lifecycle", "12"], "deploy.lifecycle"),
        ("python", ["python", "-B", "-c", "import forker; forker.main()"], "import forker; forker.main()"),
        ("python", ["python"], "python"),
    ],
)
def test_a_process_is_named_by_what_it_runs_without_its_path(name: str, command: list[str], expected: str) -> None:
    assert describe(name, command) == expected


@pytest.mark.parametrize(("busy", "expected"), [(18.0, 0.1), (15.0, 0.0)])
def test_cpu_time_that_neither_the_system_nor_the_client_took_is_that_of_others(
    monkeypatch: pytest.MonkeyPatch, busy: float, expected: float
) -> None:
    machine = iter([(10.0, 20.0), (busy, 40.0)])
    client = iter([1.0, 2.0])
    monkeypatch.setattr("tests.bench.processes.machine_seconds", lambda: next(machine))
    monkeypatch.setattr("tests.bench.processes.cpu_seconds", lambda process: next(client))
    engine = Process(name="engine", rss_bytes=1, pss_bytes=1, cpu_s=5.0)
    assert Family([]).others_share([engine]) == expected


def test_a_process_is_measured_idle_and_told_after_the_load() -> None:
    [process] = Family([psutil.Process()]).after_load()
    assert process.name
    assert process.rss_bytes >= process.pss_bytes > 0
    assert process.cpu_s >= 0


def test_a_run_needs_at_least_one_repeat() -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(["--repeats", "0"])
    assert exit_.value.code == 2


def test_by_default_a_run_measures_everything_three_times() -> None:
    options = parse([])
    assert (options.repeats, options.quick, options.only) == (3, False, None)
    assert (options.part, output_of(options)) == ("systems", Path("results/bench.json"))


def test_the_other_parts_are_asked_for_by_name() -> None:
    assert output_of(parse(["gateway"])) == Path("results/gateway.json")
    assert output_of(parse(["overload", "--output", "x.json"])) == Path("x.json")
