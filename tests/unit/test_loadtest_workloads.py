"""Prevents prompts of another length than the workload says, accidental prefix hits, and workloads misread."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest._calibration import Calibration
from loadtest._errors import LoadTestError
from loadtest._prompts import HEAD_WORDS, Conversation, Requests
from loadtest._trace_formats import Trace, TraceRequest
from loadtest._words import WORDS, Book
from loadtest._workload import Lognormal, Normal, Workload, digest, load, names, read

EXACT = Calibration(overhead={"w": 5.0}, source="tokenize")


def workload(**values: Any) -> Workload:
    return Workload(name="w", **values)


def requests(one: Workload, nonce: str = "n", seed: int = 1, trace: Trace | None = None) -> Requests:
    return Requests([(one, 1.0)], EXACT, "m", seed, nonce, trace)


def text_of(made: Requests, index: int) -> str:
    spec = made.plan(index).spec
    return spec.messages[-1]["content"] if spec.messages is not None else str(spec.prompt)


def words_of(text: str) -> list[str]:
    return text.split(" ")


def shared(a: str, b: str) -> int:
    """Words that two texts begin alike with."""
    pairs = zip(words_of(a), words_of(b), strict=False)
    return next((number for number, (x, y) in enumerate(pairs) if x != y), min(len(words_of(a)), len(words_of(b))))


# Text ---------------------------------------------------------------------------------------------------------------


def test_the_common_words_are_many_and_none_appears_twice() -> None:
    assert len(WORDS) == len(set(WORDS)) > 250


@pytest.mark.parametrize(("position", "count"), [(0, 3), (998, 2), (999, 5), (123456, 2500), (7, 0)])
def test_a_slice_of_the_book_has_exactly_so_many_words_from_there_on(position: int, count: int) -> None:
    book = Book(WORDS, "seed", length=1000)
    whole = words_of(book.slice(0, 1000).strip())
    found = words_of(book.slice(position, count))[1:]
    assert found == [whole[(position + step) % 1000] for step in range(count)]


def test_numbers_are_spelt_differently_until_the_words_run_out() -> None:
    book = Book(("a", "b", "c"), "seed", length=10)
    assert len({book.named(number, 3) for number in range(27)}) == 27
    assert book.named(27, 3) == book.named(0, 3)


@pytest.mark.parametrize("tokens", [40, 256, 6000])
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_prompt_has_exactly_the_tokens_asked_for(api: str, tokens: int) -> None:
    made = requests(workload(api=api, prompt_tokens=tokens))
    for index in range(20):
        spec = made.plan(index).spec
        assert spec.expected_prompt_tokens == tokens
        # The overhead of 5 holds the first word.
        assert len(words_of(text_of(made, index))) - 1 + 5 == tokens


def test_a_prompt_that_has_no_room_for_its_nonce_is_longer_and_says_so() -> None:
    spec = requests(workload(prompt_tokens=3)).plan(0).spec
    assert spec.expected_prompt_tokens == 5 + HEAD_WORDS


def test_a_length_is_not_promised_where_nobody_knows_the_tokeniser() -> None:
    made = Requests([(workload(), 1.0)], Calibration(), "m", 1, "n")
    assert made.plan(0).spec.expected_prompt_tokens is None


def test_no_two_prompts_of_a_run_share_more_than_the_nonce() -> None:
    made = requests(workload(prompt_tokens=60))
    texts = [text_of(made, index) for index in range(300)]
    for a, b in itertools.pairwise(texts):
        assert shared(a, b) < 1 + HEAD_WORDS
    assert len({tuple(words_of(text)[: 1 + HEAD_WORDS]) for text in texts}) == 300


def test_another_nonce_makes_another_text_and_the_same_one_the_same() -> None:
    one = workload(prompt_tokens=60)
    assert text_of(requests(one, "a"), 3) == text_of(requests(one, "a"), 3)
    assert shared(text_of(requests(one, "a"), 3), text_of(requests(one, "b"), 3)) <= 2


def test_requests_are_the_same_in_whichever_order_and_process_they_are_made() -> None:
    one = workload(prompt_tokens=Normal(distribution="normal", mean=100, deviation=30, most=200))
    a, b = requests(one), requests(one)
    assert [a.plan(index).spec for index in range(9)] == [b.plan(index).spec for index in reversed(range(9))][::-1]


# Lengths, mixes, prefixes, traces -----------------------------------------------------------------------------------


def test_drawn_lengths_have_their_distribution_and_keep_their_bounds() -> None:
    source = random.Random(1)
    normal = Normal(distribution="normal", mean=500, deviation=50)
    lengths = sorted(normal.draw(source) for _ in range(4001))
    assert lengths[2000] == pytest.approx(500, abs=5)
    assert lengths[3365] - lengths[2000] == pytest.approx(50, rel=0.1)
    lognormal = Lognormal(distribution="lognormal", median=100, sigma=1, least=50, most=400)
    lengths = sorted(lognormal.draw(source) for _ in range(4001))
    assert (lengths[0], lengths[-1]) == (50, 400)
    assert lengths[2000] == pytest.approx(100, rel=0.1)


def test_a_mix_has_its_weights() -> None:
    a, b = workload(), Workload(name="other")
    made = Requests([(a, 3.0), (b, 1.0)], EXACT, "m", 1, "n")
    found = [made.plan(index).spec.scenario for index in range(2000)]
    assert found.count("w") / 2000 == pytest.approx(0.75, abs=0.03)


def test_shared_prefixes_are_shared_and_what_follows_is_not() -> None:
    made = requests(workload(prompt_tokens=120, shared_prefix={"count": 3, "tokens": 80}))
    texts = [text_of(made, index) for index in range(60)]
    prefixes = {tuple(words_of(text)[:80]) for text in texts}
    assert len(prefixes) == 3
    for a, b in itertools.pairwise(texts):
        assert shared(a, b) == 80 if words_of(a)[:80] == words_of(b)[:80] else shared(a, b) < 80


def test_a_share_of_the_clients_hangs_up() -> None:
    made = requests(workload(cancel={"share": 0.25, "after_tokens": 9}))
    found = [made.plan(index).spec.cancel_after_tokens for index in range(2000)]
    assert set(found) == {None, 9}
    assert found.count(9) / 2000 == pytest.approx(0.25, abs=0.03)


def test_the_article_s_prompts_are_sent_as_they_are() -> None:
    article = read("article")
    made = Requests([(article, 1.0)], EXACT, "m", 1, "n")
    assert [text_of(made, index) for index in range(7)] == article.prompts
    assert text_of(made, 7) == "Pythonで回帰分析のコードを書いてください。"


TRACE = Trace(
    "mooncake",
    [
        TraceRequest(0.0, 1500, 10, hash_ids=(1, 2, 3)),
        TraceRequest(1.0, 1400, 20, hash_ids=(1, 2, 9)),
        TraceRequest(2.0, 700, 30, hash_ids=(8, 2)),
        TraceRequest(3.0, 40, 1),
    ],
    block_tokens=512,
)


def test_a_trace_gives_lengths_and_prefixes_shared_by_the_names_of_its_blocks() -> None:
    traced = workload(
        api="completions", prompt_tokens={"distribution": "trace"}, output_tokens={"distribution": "trace"}
    )
    made = requests(traced, trace=TRACE)
    specs = [made.plan(index).spec for index in range(4)]
    assert [(one.expected_prompt_tokens, one.max_tokens) for one in specs] == [
        (1500, 10),
        (1400, 20),
        (700, 30),
        (40, 1),
    ]
    texts = [text_of(made, index) for index in range(4)]
    assert [len(words_of(text)) + 4 for text in texts] == [1500, 1400, 700, 40]
    assert shared(texts[0], texts[1]) == 1024
    assert shared(texts[0], texts[2]) == 4
    assert made.plan(5).spec.max_tokens == 20


# Conversations ------------------------------------------------------------------------------------------------------


def test_a_conversation_keeps_its_history_and_each_turn_adds_one_message() -> None:
    made = requests(workload(turns=3, prompt_tokens=50, turn_tokens=20))
    planned = made.plan(0)
    assert planned.conversation is not None
    assert planned.conversation.turns_left == 3
    history = [*(planned.spec.messages or []), {"role": "assistant", "content": "answer"}]
    second = made.plan(1, Conversation(planned.workload, 2, history)).spec
    assert second.messages is not None
    assert second.messages[:2] == history
    assert [message["role"] for message in second.messages] == ["user", "assistant", "user"]
    assert len(words_of(second.messages[-1]["content"])) == 20
    assert second.expected_prompt_tokens is None


@pytest.mark.parametrize(
    ("tokens", "per_word", "words"), [(4, 1.0, 4), (5, 1.0, 5), (48, 1.0, 48), (49, 1.5, 33), (1, 1.0, 4)]
)
def test_a_later_message_has_exactly_the_tokens_asked_for_unless_it_could_not_differ(
    tokens: int, per_word: float, words: int
) -> None:
    calibration = replace(EXACT, per_word=per_word)
    made = Requests([(workload(turns=2, turn_tokens=tokens), 1.0)], calibration, "m", 1, "n")
    planned = made.plan(0)
    for index in range(1, 20):
        spec = made.plan(index, Conversation(planned.workload, 1, planned.spec.messages or [])).spec
        assert spec.messages is not None
        assert len(words_of(spec.messages[-1]["content"])) == words


def test_what_the_server_does_not_take_is_left_out() -> None:
    made = requests(workload())
    assert made.plan(0).spec.extra == {"ignore_eos": True}
    plain = Requests([(workload(body={"seed": 4}), 1.0)], replace(EXACT, ignore_eos=False), "m", 1, "n")
    assert plain.plan(0).spec.extra == {"seed": 4}


# Files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_every_workload_that_comes_along_can_be_read_and_says_what_it_is(name: str) -> None:
    assert read(name).description
    assert load(name)


def test_the_same_workload_has_the_same_digest_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: x\nprompt_tokens: 5\noutput_tokens: 7\n")
    (tmp_path / "b.yaml").write_text("{output_tokens: 7, name: x, prompt_tokens: 5}")
    (tmp_path / "c.yaml").write_text("{output_tokens: 8, name: x, prompt_tokens: 5}")
    a, b, c = (digest(load(str(tmp_path / f"{name}.yaml"))) for name in "abc")
    assert a == b != c


MISTAKES: dict[str, str] = {
    "promt_tokens: 5": "unknown key 'promt_tokens': did you mean 'prompt_tokens'?",
    "prompt_tokens: 0": "prompt_tokens: Input should be greater than or equal to 1",
    "prompt_tokens: {distribution: weibull}": "prompt_tokens: write a number of tokens, or distribution: normal",
    "prompt_tokens: {mean: 5}": "prompt_tokens: write a number of tokens, or distribution: normal",
    "prompt_tokens: {distribution: normal, mean: 5}": "prompt_tokens.deviation: Field required",
    "api: images": "api: Input should be 'chat' or 'completions'",
    "body: {stream: false}": "body must not hold stream, which the load test sets itself",
    "{api: completions, turns: 2}": "turns and system need api: chat",
    "{mix: [{workload: chat, weight: 1}], api: chat}": "a mix has no api of its own",
    "turns: 2\nturns: 3": "the key 'turns' appears twice",
    "- chat": "is no mapping",
    "a: [": "malformed YAML",
    "a: \x07": "malformed YAML",
    "": "is no mapping",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_workload_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(LoadTestError, match=MISTAKES[text]) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: str(path / "none.yaml"), "cannot be read: No such file"),
        (lambda path: str(path) + "/", "cannot be read: Is a directory"),
        (lambda path: "chatt", "unknown workload 'chatt': did you mean 'chat'?"),
    ],
)
def test_a_workload_that_is_not_there_is_one_sentence(
    make: Callable[[Path], str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(LoadTestError, match=sentence):
        load(make(tmp_path))


def test_a_mix_of_mixes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("mix: [{workload: mixed, weight: 1}]")
    with pytest.raises(LoadTestError, match="mixes mixed, which is a mix itself"):
        load(str(path))
