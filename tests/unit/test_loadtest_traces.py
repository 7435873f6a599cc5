"""Prevents: a trace that is replayed at other times or lengths than it says, or that is dropped without a word."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest._errors import LoadTestError
from loadtest._trace_formats import Trace, TraceRequest, read, write
from loadtest._trace_scaling import at_rate, cut, mean_rate, scaled, within
from loadtest._traces import burstiness, shared_prefix

SAMPLES = Path(__file__).with_name("traces")


def requests_of(name: str) -> list[TraceRequest]:
    return read(SAMPLES / name).requests


def trace_of(*times: float, tokens: int = 10) -> Trace:
    return Trace("mistral-serve", [TraceRequest(time, tokens, tokens) for time in times])


def test_azures_trace_of_2023_has_times_without_a_zone_and_with_seven_digits() -> None:
    assert requests_of("azure_2023.csv") == [
        TraceRequest(0.0, 374, 44),
        TraceRequest(4.314579, 396, 109),
        TraceRequest(4.541877, 879, 55),
        TraceRequest(4.710427, 91, 16),
        TraceRequest(6.0, 91, 16),
    ]


def test_azures_trace_of_2024_has_times_with_a_zone_and_is_put_into_order() -> None:
    assert requests_of("azure_2024.csv") == [
        TraceRequest(0.0, 2399, 6),
        TraceRequest(0.25, 2162, 5),
        TraceRequest(2.75, 76, 15),
    ]


def test_burstgpts_failed_requests_are_left_out_and_counted() -> None:
    trace = read(SAMPLES / "burstgpt.csv")
    assert trace.requests == [
        TraceRequest(0.0, 472, 18),
        TraceRequest(40.0, 1087, 230),
        TraceRequest(113.5, 417, 276),
        TraceRequest(180.0, 1360, 647),
    ]
    assert (trace.format, trace.left_out, trace.block_tokens) == ("burstgpt", 1, None)


def test_burstgpts_sessions_are_kept_where_the_file_has_them() -> None:
    assert [one.session for one in requests_of("burstgpt_sessions.csv")] == ["a", "b", "a", None]


def test_mooncakes_times_are_milliseconds_and_its_blocks_512_tokens() -> None:
    trace = read(SAMPLES / "mooncake.jsonl")
    assert trace.requests == [
        TraceRequest(0.0, 1100, 52, None, (46, 47, 48)),
        TraceRequest(0.0, 1536, 26, None, (46, 47, 49)),
        TraceRequest(3.052, 300, 500, None, (50,)),
    ]
    assert (trace.format, trace.block_tokens) == ("mooncake", 512)


@pytest.mark.parametrize("name", [path.name for path in sorted(SAMPLES.iterdir())])
def test_what_is_written_as_our_own_reads_as_the_same(tmp_path: Path, name: str) -> None:
    trace = read(SAMPLES / name)
    write(trace, tmp_path / "own.jsonl")
    again = read(tmp_path / "own.jsonl")
    assert (again.format, again.requests, again.block_tokens) == ("mistral-serve", trace.requests, trace.block_tokens)


def test_our_own_format_is_this(tmp_path: Path) -> None:
    requests = [TraceRequest(0.0, 100, 20, "a", (1, 2)), TraceRequest(0.25, 1, 2)]
    write(Trace("mooncake", requests, 64), tmp_path / "own.jsonl")
    assert [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()] == [
        {"trace": 1, "block_tokens": 64},
        {"at_s": 0.0, "prompt_tokens": 100, "output_tokens": 20, "session": "a", "hash_ids": [1, 2]},
        {"at_s": 0.25, "prompt_tokens": 1, "output_tokens": 2},
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffTIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:00:00,1,2\r\n\r\n",
        "GeneratedTokens, ContextTokens ,TIMESTAMP,Extra\n2.0,1.0, 2023-11-16T18:00:00Z ,x\n",
        'Timestamp,Request tokens,Response tokens\n"7","1","2"\n',
        '\n{"trace": 1}\n\n{"at_s": 3, "prompt_tokens": 1, "output_tokens": 2}\n'.lstrip(),
    ],
)
def test_byte_order_marks_blank_lines_quotes_and_the_order_of_columns_make_no_difference(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(text.encode())
    assert read(path).requests == [TraceRequest(0.0, 1, 2)]


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n"
MOONCAKE = '{"timestamp": 1, "input_length": 2, "output_length": 3}\n'
OWN = '{"trace": 1, "block_tokens": 64}\n'


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (AZURE + "yesterday,1,2\n", "line 3: TIMESTAMP 'yesterday' is no moment such as 2023-11-16 18:15:46.680"),
        (AZURE + "2023-11-16 18:15:46,x,2\n", "line 3: ContextTokens 'x' is no number from 0"),
        (AZURE + "2023-11-16 18:15:46,1,-2\n", "line 3: GeneratedTokens '-2' is no number from 0"),
        (AZURE + "2023-11-16 18:15:46,1,2.5\n", "line 3: GeneratedTokens '2.5' is no number of tokens"),
        (AZURE + "2023-11-16 18:15:46,1,1e9\n", "line 3: GeneratedTokens '1e9' is no number of tokens"),
        (AZURE + "2023-11-16 18:15:46,1,nan\n", "line 3: GeneratedTokens 'nan' is no number from 0"),
        (AZURE + "\n2023-11-16 18:15:46,1\n", "line 4: 2 values where there are 3 columns"),
        (MOONCAKE + "{\n", "line 2: it is not JSON"),
        (MOONCAKE + "[" * 100_000 + "\n", "line 2: it is not JSON"),
        (MOONCAKE + "[]\n", "line 2: it is not a JSON object"),
        (MOONCAKE + '{"timestamp": 1}\n', "line 2: input_length is missing"),
        (MOONCAKE + MOONCAKE.replace("2", "true"), "line 2: input_length True is no number from 0"),
        (MOONCAKE + MOONCAKE.replace("1", "-1"), "line 2: timestamp -1 is no number from 0"),
        (MOONCAKE + MOONCAKE.replace("3", '3, "hash_ids": [1.5]'), "line 2: hash_ids is no list of whole numbers"),
        (MOONCAKE + MOONCAKE.replace("3", '3, "hash_ids": 7'), "line 2: hash_ids is no list of whole numbers"),
        (OWN + '{"at_s": 0, "prompt_tokens": 1, "output_tokens": 1, "session": 5}\n', "line 2: session 5 is no text"),
        ('{"trace": 2}\n', "line 1: the trace is of version 2, and this program reads version 1"),
        ('{"trace": 1, "block_tokens": "x"}\n', "line 1: block_tokens 'x' is no number from 0"),
        ("when,what\n", "line 1: it begins no known trace: that takes the columns"),
        ("", "line 1: it begins no known trace"),
    ],
)
def test_a_malformed_row_is_one_sentence_with_its_line(tmp_path: Path, text: str, mistake: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    where, _, what = mistake.partition(": ")
    with pytest.raises(LoadTestError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{where} of {path} cannot be read: {what}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (AZURE.splitlines()[0].encode(), "holds no request with prompt and output tokens"),
        (AZURE.encode() + b"\xff\xfe,1,2\n", "is not UTF-8: give the unpacked CSV or JSON lines file"),
        (b"\x1f\x8b\x08\x00packed", "is not UTF-8: give the unpacked CSV or JSON lines file"),
    ],
)
def test_a_file_that_holds_no_trace_is_one_sentence(tmp_path: Path, content: bytes, mistake: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(LoadTestError, match=f"^the trace {path} {mistake}$"):
        read(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match=r"/nowhere cannot be read: No such file or directory$"):
        read(tmp_path / "nowhere")


def test_a_part_of_a_trace_begins_at_its_first_request() -> None:
    part = cut(trace_of(0, 1, 2.5, 4, 9), start_s=1, duration_s=3)
    assert [one.at_s for one in part.requests] == [0, 1.5]
    assert [one.at_s for one in cut(trace_of(0, 1, 9), start_s=0.5, duration_s=None).requests] == [0, 8]


def test_another_rate_keeps_the_pattern() -> None:
    trace = trace_of(0, 1, 4)
    assert mean_rate(trace) == 0.5
    assert [one.at_s for one in at_rate(trace, 2).requests] == [0, 0.25, 1]


def test_scaled_lengths_keep_shared_prefixes_and_never_become_nothing() -> None:
    half = scaled(read(SAMPLES / "mooncake.jsonl"), 0.5)
    assert half.block_tokens == 256
    assert [(one.prompt_tokens, one.output_tokens) for one in half.requests] == [(550, 26), (768, 13), (150, 250)]
    assert half.requests[1].hash_ids == (46, 47, 49)
    assert scaled(trace_of(0), 0.001).requests == [TraceRequest(0, 1, 1)]


def test_requests_that_do_not_fit_are_left_out() -> None:
    kept = within(read(SAMPLES / "mooncake.jsonl"), 1152).requests
    assert [(one.at_s, one.prompt_tokens) for one in kept] == [(0.0, 1100), (3.052, 300)]


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (lambda: cut(trace_of(0, 1), 5, None), "the trace has no request from 5 s on: the trace lasts 1 s"),
        (lambda: within(trace_of(0), 5), "the trace has no request of at most 5 tokens: give a smaller --scale-tokens"),
        (lambda: at_rate(trace_of(0, 0), 5), "the trace has no rate that could be changed: all its requests arrive at"),
    ],
)
def test_a_change_that_leaves_nothing_is_one_sentence(change: Callable[[], Trace], mistake: str) -> None:
    with pytest.raises(LoadTestError, match=f"^{mistake}"):
        change()


def test_burstiness_is_the_shape_of_gamma_arrivals() -> None:
    # Gaps 1 and 3: mean 2, variance 1, so 1/CV² = 4.
    assert burstiness(trace_of(0, 1, 4)) == pytest.approx(4)
    assert burstiness(trace_of(0, 1, 2, 3)) is None
    assert burstiness(trace_of(0, 1)) is None
    assert burstiness(trace_of(0, 0, 0)) is None


def test_shared_prefixes_are_counted_from_the_second_time_on() -> None:
    # The second prompt shares two blocks of 512 of the 1100 + 1536 + 300 tokens.
    assert shared_prefix(read(SAMPLES / "mooncake.jsonl")) == pytest.approx(1024 / 2936)
    assert shared_prefix(trace_of(0, 1)) is None


def test_the_verb_says_what_a_trace_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(SAMPLES / "burstgpt_sessions.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "burstgpt trace: 4 requests in 40.0 s, 0.075 requests/s",
        "Burstiness: 1.50 (1/CV² of the gaps between arrivals; 1: Poisson, below: bursts)",
        "Sessions: 2",
    ]
    assert [cell.strip() for cell in lines[6].strip("│").split("│")] == [
        *("prompt tokens", "42.8", "30", "61", "61", "61", "61")
    ]


def test_the_verb_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "own.jsonl"
    changes = ["--start", "1", "--duration", "4.5", "--scale-tokens", "0.5", "--most-tokens", "300", "--rate", "10"]
    assert main(["trace", str(SAMPLES / "azure_2023.csv"), *changes, "--convert", str(out)]) == 0
    # From 4.3 s on, without the third, which has 440 + 28 tokens.
    assert read(out).requests == [TraceRequest(0.0, 198, 54), TraceRequest(0.1, 46, 8)]
    printed = capsys.readouterr().out
    assert "azure trace: 2 requests in 0.1 s, 10 requests/s" in printed
    assert f"Written: {out}" in printed


def test_the_verb_names_rows_that_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(SAMPLES / "burstgpt.csv")]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(" requests/s; left out for having no tokens: 1")


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (["--rate", "0"], "--rate is 0: it must be from 0.0001 to 100000"),
        (["--scale-tokens", "nan"], "--scale-tokens is nan: it must be from 0.0001 to 1000"),
        (["--most-tokens", "1"], "--most-tokens is 1: it must be from 2 to 16777216"),
        (["--convert", "/nowhere/own.jsonl"], "the trace cannot be written to /nowhere/own.jsonl: No such file"),
    ],
)
def test_a_wrong_option_of_the_verb_is_one_sentence(
    arguments: list[str], mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", str(SAMPLES / "azure_2023.csv"), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"loadtest trace: {mistake}")
