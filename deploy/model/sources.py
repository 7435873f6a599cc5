"""``--model``: what it stands for (``inspect``), and making it a directory on this machine (``prepare``)."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from deploy.architecture import Architecture, ModelSource, known
from deploy.errors import UsageError
from deploy.model import demo, hub, rehearsal
from deploy.model.cache import Progress, models_directory
from deploy.model.chat_templates import choose_template, requested_template
from deploy.model.directory import ModelDirectory, read_architecture, read_directory
from deploy.model.formats import MISTRAL_CONFIG, resolve
from deploy.model.hub_calls import Unreachable
from deploy.settings import DEMO_MODEL, Settings

REHEARSAL_NAME = "mistral-7b-rehearsal"

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_NO_TEMPLATE = (
    "this model has no chat template: chats use `base`, a plain transcript (set vllm.chat_template for another one)"
)

Kind = Literal["demo", "hub", "local", "rehearsal"]


@dataclass(frozen=True)
class PreparedModel:
    """A model that is ready to be loaded: vLLM's arguments for it.

    ``chat_template`` is the file to hand to vLLM; None means the model's own. ``name`` is what clients call it.
    """

    path: Path
    name: str
    chat_template: Path | None
    tokenizer_mode: str
    config_format: str
    load_format: str


def inspect(settings: Settings) -> ModelSource:
    """Find out what ``--model`` stands for; loads, builds and downloads nothing.

    Takes less than half a second, except for a hub model that is neither public knowledge nor in the local cache: the
    hub is then asked once, for at most ``hub.LOOK_TIMEOUT_S`` seconds, unless ``HF_HUB_OFFLINE`` is set.

    Raises:
        UsageError: the model cannot be served as the settings ask.
    """
    kind = _kind(settings)
    if settings.revision is not None and kind != "hub":
        raise UsageError(f"revision {settings.revision!r} applies to hub models only: leave it out, or give a hub id")
    if kind != "rehearsal":
        requested_template(settings.vllm.chat_template, settings.vllm.tokenizer_mode)
    return {"demo": _demo, "hub": _hub, "local": _local, "rehearsal": _rehearsal}[kind](settings)


def prepare(settings: Settings, progress: Progress) -> PreparedModel:
    """Build, download or write what ``--model`` stands for; at once when that was done before.

    ``progress`` is given one line of text whenever there is something to tell a waiting person.

    Raises:
        UsageError: the model cannot be served as the settings ask, or not be written to the cache.
        StartError: building or downloading it failed.
    """
    source = inspect(settings)
    if source.kind == "rehearsal":
        architecture = rehearsal.rehearsed_architecture(settings)
        path = rehearsal.build_rehearsal(models_directory(settings), architecture, progress)
        formats, chat_template = rehearsal.FORMATS, None
    else:
        model = _fetch(source, settings, progress)
        path, formats = model.path, model.formats
        requested = requested_template(settings.vllm.chat_template, formats.tokenizer_mode)
        chat_template = choose_template(requested, has_own=model.has_chat_template)
    return PreparedModel(
        path=path,
        name=source.name,
        chat_template=chat_template,
        tokenizer_mode=formats.tokenizer_mode,
        config_format=formats.config_format,
        load_format=formats.load_format,
    )


def _fetch(source: ModelSource, settings: Settings, progress: Progress) -> ModelDirectory:
    if source.kind == "demo":
        return read_directory(demo.build_demo(models_directory(settings), progress), settings.vllm)
    if source.directory is not None:
        return read_directory(source.directory, settings.vllm)
    if hub.is_offline():
        raise UsageError(
            f"model {source.model!r} is not complete in the local cache and HF_HUB_OFFLINE is set: unset that once to "
            "download it, or give a local directory with --model /path"
        )
    return read_directory(hub.download(source.model, settings.revision, settings.vllm, progress), settings.vllm)


def _kind(settings: Settings) -> Kind:
    if settings.rehearse:
        return "rehearsal"
    if settings.model == DEMO_MODEL:
        return "demo"
    if is_directory(settings.model):
        return "local"
    if _HUB_ID.fullmatch(settings.model):
        return "hub"
    raise UsageError(
        f"model {settings.model!r} is neither `{DEMO_MODEL}` nor a directory nor a hub id such as {rehearsal.MODEL_ID}"
    )


def is_directory(model: str) -> bool:
    """Whether ``--model`` means a directory: it is written as a path, or there is one of that name."""
    return model != DEMO_MODEL and (model.startswith(("/", "./", "../", "~/")) or Path(model).is_dir())


def _demo(settings: Settings) -> ModelSource:
    resolve(demo.FILES, settings.vllm, "the demo model")
    directory = demo.demo_directory(models_directory(settings))
    built = demo.is_built(directory)
    return ModelSource(
        kind="demo",
        model=settings.model,
        name=settings.served_model_name or DEMO_MODEL,
        directory=directory if built else None,
        architecture=demo.ARCHITECTURE,
        weight_bytes=demo.ARCHITECTURE.weight_bytes,
        download_bytes=0 if built else demo.WHEEL_BYTES,
        has_chat_template=True,
    )


def _rehearsal(settings: Settings) -> ModelSource:
    if settings.vllm.quantization == "bitsandbytes":
        raise UsageError("quantization 'bitsandbytes' cannot be rehearsed, it needs real weights: leave it out")
    architecture = rehearsal.rehearsed_architecture(settings)
    directory = rehearsal.rehearsal_directory(models_directory(settings), architecture.layers)
    layers = "" if settings.rehearse_layers == 32 else f" and {settings.rehearse_layers} of its 32 layers"
    return ModelSource(
        kind="rehearsal",
        model=settings.model,
        name=settings.served_model_name or REHEARSAL_NAME,
        directory=directory if directory.is_dir() else None,
        architecture=architecture,
        weight_bytes=architecture.weight_bytes,
        download_bytes=0,
        has_chat_template=True,
        warnings=(f"rehearsal: {rehearsal.MODEL_ID} with random weights{layers}; its answers mean nothing",),
    )


def _local(settings: Settings) -> ModelSource:
    given = Path(settings.model).expanduser().absolute()
    path = given.resolve()
    # A symbolic link keeps its own name, which is the one that its user chose.
    name = path.name if ".." in given.parts else given.name
    return _from_directory(read_directory(path, settings.vllm), settings, "local", name)


def _from_directory(model: ModelDirectory, settings: Settings, kind: Kind, name: str) -> ModelSource:
    requested_template(settings.vllm.chat_template, model.formats.tokenizer_mode)
    return ModelSource(
        kind=kind,
        model=settings.model,
        name=settings.served_model_name or name,
        directory=model.path,
        architecture=model.architecture,
        weight_bytes=model.weight_bytes,
        download_bytes=0,
        has_chat_template=model.has_chat_template,
        warnings=(*model.warnings, *_template_warning(settings, model.has_chat_template)),
    )


def _template_warning(settings: Settings, has_own: bool | None) -> tuple[str, ...]:
    return (_NO_TEMPLATE,) if has_own is False and settings.vllm.chat_template is None else ()


def _hub(settings: Settings) -> ModelSource:
    model, revision, vllm = settings.model, settings.revision, settings.vllm
    if (found := hub.cached_model(model, revision, vllm)) is not None:
        return _from_directory(found, settings, "hub", model)
    snapshot = hub.cached_snapshot(model, revision)
    public = known(model)
    listing = hub.cached_listing(model, snapshot.name, vllm) if snapshot else None
    architecture = public or _partial_architecture(snapshot)
    warnings: tuple[str, ...] = ()
    if public is None and (architecture is None or listing is None) and not hub.is_offline():
        try:
            listing, architecture = hub.look(model, revision, vllm)
        except Unreachable as error:
            warnings = (str(error),)
    has_template = ("-Instruct-" in model or vllm.tokenizer_mode == "mistral") if public else None
    source = ModelSource(
        kind="hub",
        model=model,
        name=settings.served_model_name or model,
        directory=None,
        architecture=architecture,
        weight_bytes=architecture.weight_bytes if architecture else None,
        download_bytes=public.weight_bytes if public and vllm.load_format != "dummy" else None,
        has_chat_template=has_template,
        warnings=(*warnings, *_template_warning(settings, has_template)),
    )
    if listing is None:
        return source
    remaining = sum(size for name, size in listing.needed.items() if not (snapshot and (snapshot / name).is_file()))
    return replace(source, weight_bytes=sum(listing.weights.values()) or source.weight_bytes, download_bytes=remaining)


def _partial_architecture(snapshot: Path | None) -> Architecture | None:
    """What the configuration of an incomplete download says; None when it is not there yet."""
    if snapshot is None:
        return None
    try:
        return read_architecture(snapshot, "mistral" if (snapshot / MISTRAL_CONFIG).is_file() else "hf")[0]
    except UsageError:
        return None
