"""Our generator's open loop at its promise: 400 arrivals/s in one process, of which 99 % are at most 10 ms late."""

import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from loadtest._errors import LoadTestError
from loadtest._files import load_summary
from loadtest._mock_process import mock_server
from loadtest._selftest_arrivals import RATE
from tests.bench.errors import BenchError
from tests.bench.generators.environments import FOLDER
from tests.bench.generators.measuring import run_to_end
from tests.bench.generators.tools import OWN, ROOT

OUTPUT_TOKENS = 4
TTFT_S, ITL_S = 0.02, 0.01
SECONDS, QUICK_SECONDS = 20, 5
WARMUP_S = 2
"""Connections are new in it."""


class Arrivals(BaseModel):
    """One run at the rate that the self-test promises."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requested_rate: float
    """Requests/s."""
    achieved_rate: float
    lag_p50_ms: float
    lag_p99_ms: float
    cpu_p95: float
    """Of a core."""
    verdict: str


def measure_arrivals(python: Path, seconds: int) -> Arrivals:
    """Send Poisson arrivals to a mock server and read what the run says.

    Raises:
        BenchError: the run failed.
    """
    folder = (FOLDER / "runs" / "arrivals").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    workload = folder / "workload.yaml"
    workload.write_text(f"api: completions\nprompt_tokens: 20\noutput_tokens: {OUTPUT_TOKENS}\n", encoding="utf-8")
    with mock_server("--ttft-s", f"{TTFT_S}", "--itl-s", f"{ITL_S}") as url:
        run_to_end(OWN, command(python, url, workload, folder, seconds), folder)
    try:
        summary = load_summary(folder)
    except LoadTestError as error:
        raise BenchError(f"{OWN} wrote no result of its open loop: {error}") from error
    lag, load = summary.total.metrics.lag, summary.load
    if load.achieved_rate is None or lag.p50 is None or lag.p99 is None:
        raise BenchError(f"{OWN} sent nothing in its open loop; see {folder}")
    return Arrivals(
        requested_rate=RATE,
        achieved_rate=load.achieved_rate,
        lag_p50_ms=lag.p50,
        lag_p99_ms=lag.p99,
        cpu_p95=summary.client.cpu_p95 or 0.0,
        verdict=summary.verdict.level,
    )


def command(python: Path, url: str, workload: Path, folder: Path, seconds: int) -> list[str]:
    """The command line of the run."""
    return [
        *(str(python), "-m", "locust", "-f", str(ROOT / "loadtest"), "Completion", "--headless", "--host", url),
        *("--arrivals", "poisson", "--rate", f"{RATE:g}", "-t", f"{WARMUP_S + seconds}s", "--warmup", f"{WARMUP_S}"),
        *("--workload", str(workload), "--report", str(folder)),
    ]
