"""Prevents: a sustainable rate that is not, a search that never ends, and a plan that the server does not accept."""

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deploy.loading import load as load_settings
from loadtest import _locust_runner
from loadtest.__main__ import main
from loadtest._capacity import Capacity, ReplicaPlan, capacity_of, plan
from loadtest._errors import LoadTestError, TrialError
from loadtest._locust_runner import LocustRunner
from loadtest._schema import Level, ObjectiveResult, Reason, Summary, Verdict
from loadtest._summary import build
from loadtest._sweep import conclusion, exit_code, line, load, save
from loadtest._sweep_search import EndedBy, Plan, Search, Sweep, Trial, binding, outcome, trial_of
from loadtest._threshold import interval
from tests.unit.loadtest_runs import record, run_of

OBJECTIVE = "ttft_p95<500ms"
SUMMARY = build(run_of([record(sent=10.0 + n / 10) for n in range(400)]), [OBJECTIVE])


def summary_of(passed: bool, *reasons: Reason) -> Summary:
    """A run that met its one objective or missed it, with these findings."""
    (result,) = SUMMARY.objectives
    results = [ObjectiveResult(**{**result.model_dump(), "value": 400.0 if passed else 600.0, "met": passed})]
    levels: list[Level] = ["VALID", *(reason.level for reason in reasons)]
    level = max(levels, key=["VALID", "SUSPECT", "INVALID"].index)
    return SUMMARY.model_copy(update={"objectives": results, "verdict": Verdict(level=level, reasons=list(reasons))})


class Server:
    """Passes up to its capacity. Each trial takes ten seconds of a clock that only trials advance."""

    def __init__(self, passes: Callable[[float, int], bool | Summary]) -> None:
        self.now = 0.0
        self.rates: list[float] = []
        self._passes = passes

    def search(self, **changes: Any) -> tuple[Search, EndedBy]:
        values = {"low": 1, "high": 100, "precision": 0.1, "repeats": 1, "budget_s": 1000, "trial_s": 10}
        search = Search(self._run, Plan(**{**values, **changes}), lambda: self.now, lambda _: None)
        return search, search.search()

    def _run(self, rate: float, number: int) -> Summary:
        assert number == len(self.rates)
        self.rates.append(rate)
        self.now += 10
        answer = self._passes(rate, number)
        return answer if isinstance(answer, Summary) else summary_of(answer)


def test_the_rate_doubles_until_one_fails_and_is_halved_then() -> None:
    server = Server(lambda rate, _: rate <= 11)
    search, ended_by = server.search()
    assert server.rates == [1, 2, 4, 8, 16, 12, 10, 11]
    assert (search.passing, search.failing, ended_by) == (11, 12, "precision")


@pytest.mark.parametrize("capacity", [1.01, 3.3, 17.0, 64.0, 99.0])
@pytest.mark.parametrize("precision", [0.02, 0.1, 0.5])
def test_the_rate_is_found_to_the_precision_asked_for(capacity: float, precision: float) -> None:
    search, ended_by = Server(lambda rate, _: rate <= capacity).search(precision=precision)
    assert search.passing is not None
    assert search.failing is not None
    assert search.passing <= capacity < search.failing <= search.passing * (1 + precision)
    assert ended_by == "precision"


def test_a_lowest_rate_that_fails_ends_the_search() -> None:
    server = Server(lambda *_: False)
    search, ended_by = server.search(repeats=3)
    assert (server.rates, search.passing, ended_by) == ([1, 1], None, "low")


def test_a_highest_rate_that_passes_ends_the_search() -> None:
    server = Server(lambda *_: True)
    search, ended_by = server.search(high=6)
    assert (server.rates, search.passing, ended_by) == ([1, 2, 4, 6], 6, "high")


def test_the_majority_of_the_repeats_decides() -> None:
    # At 4 the first trial fails by bad luck, the two others pass.
    server = Server(lambda rate, number: number != 2 and rate < 6)
    search, ended_by = server.search(repeats=3, precision=0.5)
    assert server.rates == [1, 2, 4, 4, 4, 8, 8, 6, 6]
    assert (search.passing, search.failing, ended_by) == (4, 6, "precision")


def test_a_rate_that_passed_once_while_doubling_is_confirmed_before_it_is_the_result() -> None:
    server = Server(lambda rate, _: rate < 4.2)
    search, ended_by = server.search(repeats=3, precision=0.3)
    assert server.rates == [1, 2, 4, 8, 8, 6, 6, 5, 5, 4]
    assert (search.passing, search.failing, ended_by) == (4, 5, "precision")
    server = Server(lambda *_: True)
    assert server.search(repeats=5, high=4)[1] == "high"
    assert server.rates == [1, 2, 4, 4, 4]


def test_a_rate_that_passed_by_luck_is_given_up_and_the_search_goes_on_below_it() -> None:
    # Trial 2, the first one at 4, passes by luck.
    server = Server(lambda rate, number: rate < 3.2 or number == 2)
    search, ended_by = server.search(repeats=3, precision=0.3)
    assert server.rates == [1, 2, 4, 8, 8, 6, 6, 5, 5, 4, 4, 3, 3, 3.5, 3.5]
    assert (search.passing, search.failing, ended_by) == (3, 3.5, "precision")


def test_no_trial_begins_that_would_end_after_the_budget() -> None:
    server = Server(lambda rate, _: rate <= 11)
    search, ended_by = server.search(budget_s=49)
    assert server.rates == [1, 2, 4, 8]
    assert (search.passing, search.failing, ended_by) == (8, None, "budget")


def test_trials_that_take_longer_than_expected_are_expected_to_from_then_on() -> None:
    server = Server(lambda rate, _: rate <= 11)
    server.search(budget_s=49, trial_s=1)
    assert server.now == 40


def reason(level: str, check: str) -> Reason:
    return Reason(level=level, check=check, text=f"about the {check}")  # type: ignore[arg-type]


def test_a_client_that_is_the_limit_ends_the_search_without_blaming_the_server() -> None:
    server = Server(lambda rate, _: summary_of(True, reason("INVALID", "cpu")) if rate > 3 else True)
    search, ended_by = server.search(repeats=3)
    assert server.rates == [1, 2, 4, 4]
    assert (search.passing, search.failing, ended_by) == (2, None, "untrusted")


def test_a_trial_that_could_not_be_measured_is_repeated_and_costs_the_search_nothing_else() -> None:
    def fail_once(rate: float, number: int) -> bool:
        if number == 2:
            raise TrialError("locust did not end")
        return rate <= 5

    server = Server(fail_once)
    search, ended_by = server.search(precision=0.5)
    assert server.rates == [1, 2, 4, 4, 8, 6]
    assert (search.passing, search.failing, ended_by) == (4, 6, "precision")
    assert [trial.reasons for trial in search.trials if trial.passed is None] == [["not measured: locust did not end"]]
    assert line(search.trials[2]).split("untrusted[/] ")[1] == "not measured: locust did not end (0 requests, 10 s)"


def test_what_was_found_is_kept_when_a_rate_cannot_be_measured() -> None:
    def fail(rate: float, _: int) -> bool:
        if rate > 3:
            raise TrialError("locust did not end")
        return True

    server = Server(fail)
    search, ended_by = server.search()
    assert server.rates == [1, 2, 4, 4]
    sweep = outcome(search, ended_by, "http://server", [OBJECTIVE], "sweep")
    assert conclusion(sweep)[0] == "[bold]Sustainable: at least 2 requests/s, which 1 of 1 trial met.[/]"
    assert conclusion(sweep)[-1] == (
        "Ended after 4 trials and 40 s: the last rate could not be measured, for the reason beside its trials."
    )
    assert exit_code(sweep) == 3
    assert capacity_of(sweep, 1).rate <= 2


def test_a_rate_that_was_not_decided_is_not_said_to_fail() -> None:
    server = Server(lambda *_: False)
    search, ended_by = server.search(repeats=3, budget_s=15)
    sweep = outcome(search, ended_by, "http://server", [OBJECTIVE], "sweep")
    assert (server.rates, ended_by) == ([1], "budget")
    assert conclusion(sweep)[0] == "[bold]No rate could be tested.[/]"
    assert exit_code(sweep) == 3


def test_a_server_that_is_gone_ends_the_search_at_once() -> None:
    server = Server(lambda rate, _: summary_of(False, reason("INVALID", "server")) if rate > 3 else True)
    _, ended_by = server.search(repeats=3)
    assert (server.rates, ended_by) == ([1, 2, 4], "untrusted")


@pytest.mark.parametrize(
    ("met", "reasons", "passed", "missed"),
    [
        (True, [], True, []),
        (False, [], False, [OBJECTIVE]),
        (True, [reason("SUSPECT", "samples")], True, []),
        (True, [reason("SUSPECT", "steady_state")], False, ["steady state"]),
        (False, [reason("SUSPECT", "steady_state")], False, [OBJECTIVE, "steady state"]),
        (True, [reason("SUSPECT", "rate")], None, []),
        (False, [reason("INVALID", "cpu")], None, [OBJECTIVE]),
    ],
)
def test_what_a_run_says_about_a_rate(met: bool, reasons: list[Reason], passed: bool | None, missed: list[str]) -> None:
    trial = trial_of(4.0, summary_of(met, *reasons), 12.0)
    assert (trial.rate, trial.passed, trial.missed, trial.seconds) == (4.0, passed, missed, 12.0)
    assert trial.e2e_mean_ms == pytest.approx(300)
    assert trial.samples == 400


def test_what_limits_the_rate_is_what_the_lowest_failing_one_missed() -> None:
    def trial(rate: float, *missed: str) -> Trial:
        return trial_of(rate, summary_of(not missed), 1).model_copy(update={"missed": list(missed)})

    assert binding([trial(2), trial(8, "a"), trial(4, "b", "c"), trial(4, "c"), trial(16, "d")]) == ["c", "b"]
    assert binding([trial(2)]) == []


def swept(capacity: float, **changes: Any) -> Sweep:
    search, ended_by = Server(lambda rate, _: rate <= capacity).search(**changes)
    return outcome(search, ended_by, "http://server", [OBJECTIVE], "sweep")


def test_the_outcome_of_a_sweep() -> None:
    sweep = swept(11)
    assert (sweep.sustainable, sweep.binding, sweep.ended_by, sweep.seconds) == (11, [OBJECTIVE], "precision", 80)
    assert sweep.low is not None
    assert sweep.high is not None
    assert 4 < sweep.low < 11 < sweep.high < 32
    assert conclusion(sweep) == [
        "[bold]Sustainable: 11 requests/s, which 1 of 1 trial met.[/]",
        f"The rate that half of all trials would meet: {sweep.low:.2f} to {sweep.high:.1f} requests/s "
        "(95 % credible interval).",
        "What limits it: ttft_p95<500ms.",
        "Ended after 8 trials and 80 s: as precise as asked.",
    ]
    assert exit_code(sweep) == 0


def test_a_server_that_no_tested_rate_suits_is_said_to_be_so() -> None:
    sweep = swept(0)
    assert conclusion(sweep) == [
        "[bold]Not sustainable at any tested rate.[/]",
        "What limits it: ttft_p95<500ms.",
        "Ended after 1 trial and 10 s: the lowest rate fails.",
    ]
    assert exit_code(sweep) == 1


def test_a_sweep_whose_client_is_the_limit_proves_nothing() -> None:
    search, ended_by = Server(lambda *_: summary_of(True, reason("INVALID", "cpu"))).search()
    sweep = outcome(search, ended_by, "http://server", [OBJECTIVE], "sweep")
    assert conclusion(sweep)[0] == "[bold]No rate could be tested.[/]"
    assert exit_code(sweep) == 3


def test_a_sweep_reads_back_as_the_same(tmp_path: Path) -> None:
    save(swept(11), tmp_path / "new")
    assert load(tmp_path / "new") == swept(11)


@pytest.mark.parametrize(
    ("content", "mistake"),
    [(None, "holds no sweep: No such file or directory (sweep.json)"), ("{}", "is no sweep of this version: Field")],
)
def test_a_directory_without_a_sweep_is_one_sentence(tmp_path: Path, content: str | None, mistake: str) -> None:
    if content:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(LoadTestError) as raised:
        load(tmp_path)
    assert mistake in str(raised.value)


def test_a_trial_is_shown_in_a_line() -> None:
    lines = [
        line(trial_of(4.0, summary_of(met, *reasons), 12.0))
        for met, reasons in (
            (True, []),
            (False, [reason("SUSPECT", "steady_state")]),
            (True, [reason("INVALID", "cpu")]),
        )
    ]
    assert [text.split("(95")[0] for text in lines] == [
        "       4/s [green]met[/]       ttft_p95<500ms: 400 ms ",
        "       4/s [red]missed[/]    ttft_p95<500ms: 600 ms ",
        "       4/s [yellow]untrusted[/] ttft_p95<500ms: 400 ms ",
    ]
    assert [text.split(")", 1)[1] for text in lines] == [
        " (400 requests, 12 s)",
        "; no steady state (400 requests, 12 s)",
        "; cpu: about the cpu (400 requests, 12 s)",
    ]


HOST = ["--host", "http://127.0.0.1:9", "--slo", OBJECTIVE]


@pytest.mark.parametrize(
    ("flags", "mistake"),
    [
        (["--low", "0"], "--low is 0: it must be from 0.001 to 100000"),
        (["--high", "0.1"], "--high is 0.1: it must be from 0.5 to 100000"),
        (["--duration", "1"], "--duration is 1: it must be from 5 to 3600"),
        (["--precision", "nan"], "--precision is nan: it must be from 0.01 to 1"),
        (["--budget", "20"], "--budget is 20: it must be from 45 to 86400"),
        (["--repeats", "2"], "--repeats is 2: it must be odd, so that there is always a majority"),
        (["--slo", "ttft<1"], "unknown metric 'ttft' in objective 'ttft<1': did you mean"),
    ],
)
def test_a_wrong_option_of_a_sweep_is_one_sentence(
    flags: list[str], mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *HOST, *flags]) == 2
    assert capsys.readouterr().err.startswith(f"loadtest sweep: {mistake}")


def test_an_interrupted_sweep_keeps_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: LocustRunner, rate: float, number: int) -> Summary:
        if number == 2:
            raise KeyboardInterrupt
        return summary_of(rate < 1)

    monkeypatch.setattr(LocustRunner, "__call__", run)
    assert main(["sweep", *HOST, "--repeats", "3", "--report", str(tmp_path)]) == 130
    sweep = load(tmp_path)
    assert [(trial.rate, trial.passed) for trial in sweep.trials] == [(0.5, True), (1.0, False)]
    assert (sweep.ended_by, sweep.sustainable) == ("interrupted", 0.5)
    assert "it was interrupted, and its last trial does not count" in capsys.readouterr().out


def test_a_trial_is_one_open_loop_run_of_locust(tmp_path: Path) -> None:
    runner = LocustRunner("http://server", [OBJECTIVE, "error_rate<1%"], "poisson", 29.5, 5.0, 7, tmp_path, ["Chat"])
    assert runner.command(12.5, 3, tmp_path / "x") == [
        *(sys.executable, "-m", "locust", "-f", str(Path(__file__).resolve().parents[2] / "loadtest")),
        *("--headless", "--host", "http://server", "--arrivals", "poisson", "--rate", "12.5", "-t", "35s"),
        *("--warmup", "5", "--seed", "10", "--report", str(tmp_path / "x")),
        *("--slo", OBJECTIVE, "--slo", "error_rate<1%", "Chat"),
    ]


def test_a_locust_that_ends_without_a_result_is_one_sentence_with_its_last_words(tmp_path: Path) -> None:
    runner = LocustRunner("http://server", [OBJECTIVE], "poisson", 5, 0, 1, tmp_path, ["--no-such-flag"])
    with pytest.raises(LoadTestError, match=r"^locust ended without a result: \S") as raised:
        runner(1.0, 0)
    assert (tmp_path / "trial-00-rate-1" / "locust.log").stat().st_size > 0
    assert not isinstance(raised.value, TrialError), "a wrong flag is wrong in every trial"


def test_a_locust_that_dies_or_hangs_costs_one_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = LocustRunner("http://server", [OBJECTIVE], "poisson", 5, 0, 1, tmp_path, [])
    program = "import sys; print('out of memory'); sys.exit(1)"
    monkeypatch.setattr(LocustRunner, "command", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(TrialError, match=r"^locust ended without a result: out of memory$"):
        runner(1.0, 0)
    monkeypatch.setattr(LocustRunner, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(_locust_runner, "GRACE_S", -5)
    with pytest.raises(TrialError, match=r"^locust did not end at 1 requests/s: see "):
        runner(1.0, 0)


def test_no_trial_bounds_nothing() -> None:
    assert interval([]) == (None, None)


def test_only_what_failed_bounds_a_rate_above_and_only_what_passed_below() -> None:
    low, high = interval([(1, True), (2, True)])
    assert (low is not None, high) == (True, None)
    low, high = interval([(1, False), (2, False)])
    assert (low, high is not None) == (None, True)


def test_no_bound_lies_where_no_trial_was() -> None:
    low, _ = interval([(10, True), (12, True), (12, True)])
    assert low == 12
    _, high = interval([(10, False), (12, False), (10, False)])
    assert high == 10


def test_a_sweep_without_a_failing_rate_names_no_upper_bound() -> None:
    sweep = swept(100, high=4)
    assert conclusion(sweep)[1] == (
        f"The rate that half of all trials would meet: {sweep.low:.2f} requests/s or more (95 % credible interval)."
    )


def test_more_trials_make_the_interval_narrower() -> None:
    few = interval([(8, True), (12, False)])
    many = interval([(8, True), (12, False), (9, True), (11, False), (9.5, True), (10.5, False)] * 3)
    assert width(many) < width(few) / 2
    assert 9 < (many[0] or 0) < 10 < (many[1] or 0) < 11


def width(bounds: tuple[float | None, float | None]) -> float:
    assert bounds[0] is not None
    assert bounds[1] is not None
    return math.log(bounds[1] / bounds[0])


def test_the_interval_does_not_depend_on_the_unit() -> None:
    trials = [(8.0, True), (12.0, False), (10.0, True), (10.0, False)]
    thousand = interval([(1000 * rate, passed) for rate, passed in trials])
    assert [bound / 1000 for bound in thousand if bound] == pytest.approx([*interval(trials)])


def by_chance(random: np.random.Generator, place: float, rate: float, _: int) -> bool:
    """Passes with 88 % at a rate 10 % below ``place``, with 12 % at one 10 % above."""
    return bool(random.random() < 1 / (1 + np.exp(np.log(rate / place) / 0.05)))


def test_the_interval_holds_the_true_rate_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        place = float(np.exp(random.uniform(np.log(4), np.log(60))))
        search, _ = Server(partial(by_chance, random, place)).search(repeats=3)
        low, high = interval([(trial.rate, bool(trial.passed)) for trial in search.trials])
        inside += (low or 0) <= place <= (high or math.inf)
    assert inside >= 0.9 * 200


@pytest.mark.parametrize(
    ("rate", "capacity", "headroom", "spare", "needed", "replicas", "utilisation"),
    [
        (10, 4, 0.2, 1, 4, 5, 0.5),
        # 9.6 / 3.2 is 3 but for rounding: it must not cost a fourth replica.
        (9.6, 4, 0.2, 1, 3, 4, 0.6),
        (9.7, 4, 0.2, 1, 4, 5, 0.485),
        (0.1, 4, 0.2, 0, 1, 1, 0.025),
        (8, 4, 0, 0, 2, 2, 1),
        (8, 4, 0.5, 2, 4, 6, 1 / 3),
    ],
)
def test_replicas_for_a_rate_with_headroom_and_spares(
    rate: float, capacity: float, headroom: float, spare: int, needed: int, replicas: int, utilisation: float
) -> None:
    found = plan(rate, Capacity(capacity), headroom, spare)
    assert (found.needed, found.replicas, found.min_replicas) == (needed, replicas, min(1 + spare, replicas))
    assert found.utilisation == pytest.approx(utilisation)
    assert found.target_ongoing_requests is None


@pytest.mark.parametrize(
    ("rate", "target"),
    [
        # 5 replicas at 2/s, half way between the measured 1 s at 1/s and 2 s at 3/s: 2 × 1.5.
        (10, 3.0),
        # 2 replicas at 0.05/s: 0.05 × 1 s in flight, held at the least that makes sense.
        (0.1, 0.1),
    ],
)
def test_the_target_of_the_autoscaler_is_what_is_in_flight_at_the_rate(rate: float, target: float) -> None:
    capacity = Capacity(4, [(1.0, 1.0), (3.0, 2.0)])
    assert plan(rate, capacity, 0.2, 1).target_ongoing_requests == target


def test_a_plan_of_more_replicas_than_can_be_set_up_is_refused() -> None:
    with pytest.raises(LoadTestError, match=r"^5000 requests/s take 1564 replicas: more than 1000 cannot be set up$"):
        plan(5000, Capacity(4), 0.2, 1)


def test_the_capacity_of_a_replica_is_the_lower_end_of_the_sweeps_interval() -> None:
    sweep = swept(11)
    capacity = capacity_of(sweep, replicas=2)
    assert capacity.rate == (sweep.low or 0) / 2
    assert [rate for rate, _ in capacity.latencies] == [0.5, 1, 2, 4, 5, 5.5]
    assert [seconds for _, seconds in capacity.latencies] == pytest.approx([0.3] * 6)
    with pytest.raises(LoadTestError, match=r"^the sweep found no sustainable rate"):
        capacity_of(swept(0), 1)


def printed_plan(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["plan", *flags]) == 0
    return capsys.readouterr().out


def test_the_plan_of_a_sweep_is_a_profile_that_the_server_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(swept(11), tmp_path)
    text = printed_plan(capsys, "--rate", "60", "--report", str(tmp_path), "--headroom", "0.3")
    (tmp_path / "planned.yaml").write_text(text)
    scaling = load_settings(argv=["--profile", str(tmp_path / "planned.yaml")]).scaling
    planned = yaml.safe_load(text)["scaling"]
    assert (scaling.min_replicas, scaling.max_replicas) == (2, planned["max_replicas"])
    assert scaling.target_ongoing_requests == planned["target_ongoing_requests"]
    assert scaling.autoscaling
    low = swept(11).low or 0
    assert planned["max_replicas"] == math.ceil(60 / (low * 0.7)) + 1
    assert planned["target_ongoing_requests"] == pytest.approx(60 * 0.3 / planned["max_replicas"], abs=0.005)


def test_the_plan_of_a_known_rate_says_how_it_comes_about(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--rate", "10", "--sustainable", "8", "--replicas", "2"]
    assert printed_plan(capsys, *flags).splitlines() == [
        "# For 10 requests/s: one replica sustains 4, less 20% headroom.",
        "# Needed: 4; with spares: 5, each then at 50%.",
        "# A fixed number instead: scaling: {replicas: 5}",
        "# No latency was measured: target_ongoing_requests is left to the server. A sweep's --report sets it.",
        "scaling:",
        "  min_replicas: 2",
        "  max_replicas: 5",
    ]


def test_the_plan_for_the_chart_is_its_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(swept(11), tmp_path)
    flags = ["--rate", "60", "--report", str(tmp_path)]
    profile = yaml.safe_load(printed_plan(capsys, *flags))
    values = yaml.safe_load(printed_plan(capsys, *flags, "--chart"))
    assert values == {"autoscaler": {"enabled": True}, "settings": profile}


def test_the_plan_for_the_chart_is_a_fixed_number_where_no_latency_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    values = yaml.safe_load(printed_plan(capsys, "--rate", "10", "--sustainable", "4", "--chart"))
    assert values == {"settings": {"scaling": {"replicas": 5}}}


def test_the_fixed_number_that_a_plan_names_is_a_profile_too(tmp_path: Path) -> None:
    (tmp_path / "fixed.yaml").write_text("scaling: {replicas: 5}\n")
    assert load_settings(argv=["--profile", str(tmp_path / "fixed.yaml")]).scaling.most_replicas == 5


@pytest.mark.parametrize(
    ("flags", "mistake"),
    [
        (["--rate", "0", "--sustainable", "1"], "--rate is 0: it must be more than 0 and at most 1e+06"),
        (["--rate", "nan", "--sustainable", "1"], "--rate is nan: it must be more than 0 and at most 1e+06"),
        (["--rate", "1", "--sustainable", "-1"], "--sustainable is -1: it must be more than 0 and at most 1e+06"),
        (["--rate", "1", "--sustainable", "1", "--replicas", "0"], "--replicas is 0: it must be more than 0"),
        (["--rate", "1", "--sustainable", "1", "--headroom", "1"], "--headroom is 1: it must be from 0 to less than 1"),
        (["--rate", "1", "--sustainable", "1", "--spare", "-1"], "--spare is -1: it must be from 0 to 1000"),
        (["--rate", "1", "--report", "/nowhere"], "/nowhere holds no sweep: No such file or directory (sweep.json)"),
    ],
)
def test_a_wrong_option_of_a_plan_is_one_sentence(
    flags: list[str], mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"loadtest plan: {mistake}")


def test_a_plan_names_only_settings_that_exist() -> None:
    planned = ReplicaPlan(10, 4, 5, 0.5, 3.0, 2).settings()
    assert planned == {"scaling": {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 3.0}}
