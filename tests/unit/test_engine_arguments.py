"""Prevents an engine argument that vLLM does not know, or does not take, from being noticed only after minutes.

A small package named vllm stands in for the real one, whose import takes seconds; the module of this name in
tests/libraries asks the real one.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import engine_arguments
from deploy.errors import StartError, UsageError
from deploy.settings import Settings

STUB = {
    "__init__.py": "print('a line that vllm writes to stdout')\n",
    "config.py": """
from pydantic import Field
from pydantic.dataclasses import dataclass

@dataclass
class CacheConfig:
    block_size: int = Field(default=16, gt=0)

@dataclass(config={"extra": "forbid"})
class AttentionConfig:
    backend: str = "auto"
    version: int = 2
""",
    "engine/arg_utils.py": """
from dataclasses import dataclass, field
from typing import Literal
from vllm.config import AttentionConfig

class NoPydanticType:
    pass

@dataclass
class EngineArgs:
    block_size: int | None = None
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    attention_config: AttentionConfig = field(default_factory=AttentionConfig)
    attention_backend: None = None
    images: dict[str, int | list[int]] = field(default_factory=dict)
    lora_dtype: NoPydanticType | None = None
    cpu_offload_gb: float = 0

@dataclass
class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False
""",
    "entrypoints/launchers/cli_args.py": """
from dataclasses import dataclass

@dataclass
class BaseFrontendArgs:
    tool_call_parser: str | None = None

@dataclass
class FrontendArgs(BaseFrontendArgs):
    api_key: list[str] | None = None
""",
}


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, found before the real vLLM by this process and by those it starts; not imported by this one."""
    for name, source in STUB.items():
        file = tmp_path / "vllm" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "vllm"


def refusal(**engine: Any) -> str:
    with pytest.raises(UsageError) as caught:
        engine_arguments.check_values(Settings(engine=engine))
    return str(caught.value)


@pytest.mark.usefixtures("vllm")
def test_the_names_are_those_of_engine_and_frontend_and_of_nothing_else() -> None:
    assert engine_arguments.known_names() == {
        *("block_size", "kv_cache_dtype", "attention_config", "attention_backend", "images", "lora_dtype"),
        *("cpu_offload_gb", "enable_log_requests", "tool_call_parser", "api_key"),
    }


@pytest.mark.usefixtures("vllm")
def test_a_known_name_passes_whatever_its_value_and_vllm_stays_unimported() -> None:
    engine_arguments.check(Settings(engine={"block_size": "abc", "tool_call_parser": 3}))
    assert "vllm" not in sys.modules


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blok_size", "vLLM has no engine argument 'blok_size': did you mean 'block_size'?"),
        ("zzz", "vLLM has no engine argument 'zzz': vLLM's documentation lists them"),
        ("version", "vLLM has no engine argument 'version': vLLM's documentation lists them"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        engine_arguments.check(Settings(engine={"block_size": 16, name: 1}))
    assert str(caught.value) == message


def test_without_vllm_every_name_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    engine_arguments.check(Settings(engine={"zzz": 1}))
    assert engine_arguments.known_names() == frozenset()


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("block_size", "abc", "block_size is 'abc': vLLM says it should be a valid integer"),
        ("block_size", "32", "block_size is '32': vLLM says it should be a valid integer"),
        ("block_size", True, "block_size is true: vLLM says it should be a valid integer"),
        ("block_size", 0, "block_size is 0: vLLM says it should be greater than 0"),
        ("kv_cache_dtype", "fp9", "kv_cache_dtype is 'fp9': vLLM says it should be 'auto' or 'fp8'"),
        ("attention_config", [1], "attention_config is [1]: vLLM says it should be an object"),
        (
            "attention_config",
            {"backend": "a", "nope": 1},
            "attention_config.nope is 1: vLLM says unexpected keyword argument",
        ),
        ("attention_backend", 3, "attention_backend is 3: vLLM says it should be a valid string"),
        ("images", {"one": "x"}, "images.one is 'x': vLLM says it should be a valid integer"),
        ("enable_log_requests", 1, "enable_log_requests is 1: vLLM says it should be a valid boolean"),
        ("tool_call_parser", ["a"], "tool_call_parser is ['a']: vLLM says it should be a valid string"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_what_vllm_takes(name: str, value: Any, said: str) -> None:
    assert refusal(**{name: value}) == f"engine argument {said}"


@pytest.mark.usefixtures("vllm")
def test_every_wrong_value_gets_a_sentence_of_its_own() -> None:
    assert refusal(block_size="a", kv_cache_dtype="auto", cpu_offload_gb="b") == (
        "engine argument block_size is 'a': vLLM says it should be a valid integer; "
        "engine argument cpu_offload_gb is 'b': vLLM says it should be a valid number"
    )


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("value", ["a-secret", ["other", 7]])
def test_a_wrong_key_is_refused_without_being_shown(value: Any) -> None:
    message = refusal(api_key=value)
    assert message.startswith("engine argument api_key")
    assert "is (hidden): vLLM says it should be a valid" in message
    assert "secret" not in message


@pytest.mark.usefixtures("vllm")
def test_what_vllm_takes_passes_and_the_wait_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    taken = {
        "block_size": 16,
        "kv_cache_dtype": "fp8",
        "attention_config": {"version": 3},
        "attention_backend": "FLASH_ATTN",
        "images": {"one": 1, "two": [2]},
        "lora_dtype": "a type that pydantic cannot check",
        "cpu_offload_gb": 2,
        "enable_log_requests": None,
        "api_key": ["a", "b"],
    }
    engine_arguments.check_values(Settings(engine=taken))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "checking the engine arguments with vLLM\n")


def test_without_further_engine_arguments_vllm_is_not_asked(vllm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (vllm / "__init__.py").write_text("raise ImportError('not asked')", encoding="utf-8")
    engine_arguments.check_values(Settings())
    assert capsys.readouterr().err == ""


def test_a_vllm_that_cannot_be_imported_is_a_failed_start_with_its_cause(vllm: Path) -> None:
    (vllm / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open')", encoding="utf-8")
    with pytest.raises(StartError) as caught:
        engine_arguments.check_values(Settings(engine={"block_size": 16}))
    assert str(caught.value) == ("vLLM cannot check its engine arguments: ImportError: libcudart.so.13: cannot open")
