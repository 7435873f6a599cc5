"""Prevents prompts that a model was never trained on: a token too many, a turn misplaced, a template mixed up."""

from pathlib import Path
from typing import Any, NoReturn

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from deploy.architecture import MISTRAL_7B_V01
from deploy.errors import UsageError
from deploy.model.chat_templates import choose_template, requested_template, shipped
from deploy.model.rehearsal import build_rehearsal

SYSTEM = {"role": "system", "content": "Be brief."}
FRANCE = {"role": "user", "content": "What is the capital of France?"}
PARIS = {"role": "assistant", "content": "Paris."}
JAPAN = {"role": "user", "content": " And of Japan?\n"}


def render(name: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    """Render as transformers does (``transformers/utils/chat_template_utils.py``)."""

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    template = environment.from_string(shipped()[name].read_text(encoding="utf-8"))
    values = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True} | variables
    return template.render(messages=messages, **values)


def test_the_shipped_templates_are_these() -> None:
    assert list(shipped()) == ["base", "mistral-instruct"]


def test_base_makes_a_transcript_that_ends_where_the_model_goes_on() -> None:
    assert render("base", [SYSTEM, FRANCE, PARIS, JAPAN]) == (
        "<s>Be brief.\n\nUser: What is the capital of France?\nAssistant: Paris.\nUser: And of Japan?\nAssistant:"
    )


def test_base_ends_after_the_last_message_when_nothing_is_to_be_generated() -> None:
    assert render("base", [FRANCE, PARIS], add_generation_prompt=False) == (
        "<s>User: What is the capital of France?\nAssistant: Paris.\n"
    )


def test_base_writes_no_token_that_the_tokenizer_does_not_have() -> None:
    assert render("base", [FRANCE], bos_token=None) == "User: What is the capital of France?\nAssistant:"


def test_base_refuses_roles_that_a_transcript_does_not_have() -> None:
    with pytest.raises(TemplateError, match="has the roles system, user and assistant, not tool"):
        render("base", [FRANCE, {"role": "tool", "content": "42"}])


def test_instruct_puts_the_system_message_into_the_first_user_turn() -> None:
    assert render("mistral-instruct", [SYSTEM, FRANCE, PARIS, JAPAN]) == (
        "<s>[INST] Be brief.\n\nWhat is the capital of France? [/INST] Paris.</s>[INST] And of Japan? [/INST]"
    )


def test_instruct_without_a_system_message() -> None:
    assert render("mistral-instruct", [FRANCE]) == "<s>[INST] What is the capital of France? [/INST]"


def test_instruct_takes_an_empty_answer_for_empty() -> None:
    assert render("mistral-instruct", [FRANCE, {"role": "assistant", "content": None}, JAPAN]) == (
        "<s>[INST] What is the capital of France? [/INST] </s>[INST] And of Japan? [/INST]"
    )


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([PARIS], "message 1 is from assistant instead of user"),
        ([FRANCE, JAPAN], "message 2 is from user instead of assistant"),
        ([SYSTEM, FRANCE, SYSTEM], "message 2 is from system instead of assistant"),
        ([FRANCE, {"role": "tool", "content": "42"}], "message 2 is from tool instead of assistant"),
        ([SYSTEM], "The conversation has no user message"),
        ([], "The conversation has no user message"),
    ],
)
def test_instruct_refuses_turns_out_of_order(messages: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(TemplateError, match=complaint):
        render("mistral-instruct", messages)


def test_instruct_reads_like_mistrals_own_tokenizer_for_v01(tmp_path: Path) -> None:
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    conversation = [SYSTEM, FRANCE, PARIS, {"role": "user", "content": "And of Japan?"}]
    tokenizer = MistralTokenizer.from_file(str(build_rehearsal(tmp_path, MISTRAL_7B_V01, print) / "tokenizer.model.v1"))
    tokens = tokenizer.encode_chat_completion(ChatCompletionRequest(messages=conversation)).tokens
    pieces = tokenizer.decode(tokens, special_token_policy=SpecialTokenPolicy.KEEP)
    # SentencePiece begins every text with a space of its own, also after <s> and </s>; a template does not write it.
    as_text = pieces.replace("<0x0A>", "\n").replace("▁", " ").replace("<s> ", "<s>").replace("</s> ", "</s>")
    assert render("mistral-instruct", conversation) == as_text


def test_a_model_without_a_template_gets_base_and_one_with_its_own_keeps_it() -> None:
    assert choose_template(None, has_own=False) == shipped()["base"]
    assert choose_template(None, has_own=True) is None
    assert choose_template(Path("asked.jinja"), has_own=True) == Path("asked.jinja")


def test_a_template_is_asked_for_by_name_or_by_file(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("x")
    assert requested_template("mistral-instruct", "auto") == shipped()["mistral-instruct"]
    assert requested_template(str(tmp_path / "own.jinja"), "hf") == tmp_path / "own.jinja"
    assert requested_template(None, "mistral") is None


def test_a_template_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(UsageError) as error:
        requested_template("mistral-instrukt", "auto")
    assert str(error.value) == (
        "chat_template 'mistral-instrukt' is neither a file nor one that ships with the product "
        "(base, mistral-instruct)"
    )


def test_mistrals_own_tokenizer_takes_no_template() -> None:
    with pytest.raises(UsageError) as error:
        requested_template("base", "mistral")
    assert str(error.value) == (
        "chat_template 'base' cannot be used with Mistral's own tokenizer, which lays out chats itself: leave it out, "
        "or set tokenizer_mode to 'hf'"
    )
