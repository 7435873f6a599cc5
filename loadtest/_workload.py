"""Workloads: what requests look like. YAML files with a strict schema, by name from ``workloads/`` or by path."""

import difflib
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from loadtest._errors import LoadTestError

DIRECTORY = Path(__file__).resolve().parent / "workloads"
RESERVED = ("model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens")
MOST_TOKENS = 1 << 20
LARGEST_FILE = 1 << 20
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of a workload. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Normal(Part):
    """Lengths from a normal distribution, cut to the bounds."""

    distribution: Literal["normal"]
    mean: float = Field(gt=0, le=MOST_TOKENS, description="tokens")
    deviation: float = Field(ge=0, le=MOST_TOKENS, description="standard deviation, tokens")
    least: Tokens = 1
    most: Tokens = MOST_TOKENS

    def draw(self, source: random.Random) -> int:
        """One length in tokens."""
        return _within(source.gauss(self.mean, self.deviation), self.least, self.most)


class Lognormal(Part):
    """Lengths from a lognormal distribution, cut to the bounds: many short ones, few very long ones."""

    distribution: Literal["lognormal"]
    median: float = Field(gt=0, le=MOST_TOKENS, description="tokens")
    sigma: float = Field(ge=0, le=5, description="standard deviation of the logarithm")
    least: Tokens = 1
    most: Tokens = MOST_TOKENS

    def draw(self, source: random.Random) -> int:
        """One length in tokens."""
        return _within(self.median * source.lognormvariate(0, self.sigma), self.least, self.most)


class FromTrace(Part):
    """Lengths of the requests of ``--trace``, in their order."""

    distribution: Literal["trace"]


def _kind_of_length(value: Any) -> str | None:
    if isinstance(value, dict):
        found: str = value.get("distribution", "without a distribution")
        return found
    kind: str = getattr(value, "distribution", "fixed")
    return kind


Length = Annotated[
    Annotated[Tokens, Tag("fixed")]
    | Annotated[Normal, Tag("normal")]
    | Annotated[Lognormal, Tag("lognormal")]
    | Annotated[FromTrace, Tag("trace")],
    Discriminator(
        _kind_of_length,
        custom_error_type="length",
        custom_error_message="write a number of tokens, or distribution: normal, lognormal or trace",
    ),
]


def _within(value: float, least: int, most: int) -> int:
    return max(least, min(most, round(value)))


class SharedPrefix(Part):
    """Prompts that begin alike: each with one of ``count`` texts of ``tokens`` tokens."""

    count: int = Field(ge=1, le=10_000)
    tokens: Tokens


class Cancel(Part):
    """Clients that hang up."""

    share: Share = Field(description="of the requests")
    after_tokens: Tokens = Field(description="chunks with content that are read first")


class MixPart(Part):
    """A workload of a mix."""

    workload: str
    weight: float = Field(gt=0, le=1e6)


class Workload(Part):
    """One kind of request, or a mix of workloads."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str = ""
    api: Literal["chat", "completions"] = "chat"
    prompt_tokens: Length = 256
    output_tokens: Length = 128
    ignore_eos: bool = Field(default=True, description="let the server generate exactly output_tokens, where it can")
    system: str | None = Field(default=None, description="system message; its tokens are part of prompt_tokens")
    prompts: list[str] | None = Field(default=None, min_length=1, description="texts in turn, as they are")
    shared_prefix: SharedPrefix | None = None
    turns: int = Field(default=1, ge=1, le=1000, description="of a chat; each turn sends the history before it")
    turn_tokens: Length | None = Field(
        default=None, description="of the message of each later turn; else prompt_tokens"
    )
    think_time_s: float = Field(default=0, ge=0, le=3600, description="mean seconds between answer and next request")
    cancel: Cancel | None = None
    body: dict[str, Any] = Field(default={}, description="further fields of the request's body")
    mix: list[MixPart] | None = Field(default=None, min_length=1, description="workloads instead of all of the above")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mix is not None and (other := self.model_fields_set - {"name", "description", "mix", "think_time_s"}):
            raise ValueError(f"a mix has no {sorted(other)[0]} of its own: set it in the workloads that it names")
        if reserved := [name for name in RESERVED if name in self.body]:
            raise ValueError(f"body must not hold {reserved[0]}, which the load test sets itself")
        if self.api == "completions" and (self.turns > 1 or self.system is not None):
            raise ValueError("turns and system need api: chat")
        if self.prompts is not None and self.shared_prefix is not None:
            raise ValueError("prompts are sent as they are: leave out shared_prefix")
        return self

    @property
    def uses_trace(self) -> bool:
        """Whether lengths come from a trace."""
        lengths = (self.prompt_tokens, self.output_tokens, self.turn_tokens)
        return any(isinstance(length, FromTrace) for length in lengths)


class _StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and drops the first; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping without repeated keys."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
            raise yaml.constructor.ConstructorError(problem=f"the key {twice!r} appears twice")
        return super().construct_mapping(node, deep)


def names() -> list[str]:
    """The workloads that come with the load test."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def load(name: str) -> list[tuple[Workload, float]]:
    """The workloads of a name or a file with their weights: one, or those of a mix. Raises LoadTestError."""
    whole = read(name)
    if whole.mix is None:
        return [(whole, 1.0)]
    parts = [(read(part.workload), part.weight) for part in whole.mix]
    if nested := next((part.name for part, _ in parts if part.mix is not None), None):
        raise LoadTestError(f"the workload {whole.name} mixes {nested}, which is a mix itself")
    if whole.think_time_s:
        parts = [(part.model_copy(update={"think_time_s": whole.think_time_s}), weight) for part, weight in parts]
    return parts


def read(name: str) -> Workload:
    """One file. Raises LoadTestError."""
    path = path_of(name)
    try:
        text = path.read_bytes()[: LARGEST_FILE + 1].decode()
        values = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a subclass of SafeLoader)
    except OSError as error:
        raise LoadTestError(f"the workload {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise LoadTestError(f"the workload {path} is malformed YAML: {problem}") from None
    if not isinstance(values, dict):
        raise LoadTestError(f"the workload {path} is no mapping of keys such as prompt_tokens: 256")
    try:
        return Workload.model_validate({"name": path.stem, **{str(key): value for key, value in values.items()}})
    except ValidationError as error:
        raise LoadTestError(f"the workload {path}: {_sentence(error)}") from None


def path_of(name: str) -> Path:
    """The file of a workload: a name from ``workloads/``, or a path. Raises LoadTestError for an unknown name."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    if name in names():
        return DIRECTORY / f"{name}.yaml"
    nearest = difflib.get_close_matches(name, names(), n=1, cutoff=0)
    raise LoadTestError(f"unknown workload {name!r}: did you mean {nearest[0]!r}? A file's name ends in .yaml")


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(one) for one in first["loc"] if one not in ("fixed", "normal", "lognormal", "trace"))
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        nearest = difflib.get_close_matches(key, Workload.model_fields, n=1, cutoff=0)
        return f"unknown key {key!r}: did you mean {nearest[0]!r}?"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def digest(workloads: Sequence[tuple[Workload, float]]) -> str:
    """What tells two workloads apart, however their files are written: 16 hex digits."""
    text = "\n".join(f"{weight:g} {workload.model_dump_json()}" for workload, weight in workloads)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
