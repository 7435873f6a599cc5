"""A model of the Hugging Face hub: found in the local cache, asked for at the hub, or downloaded, in bounded time."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.architecture import Architecture
from deploy.errors import ServeError, StartError, UsageError
from deploy.model.cache import Progress
from deploy.model.directory import ModelDirectory, read_architecture, read_directory
from deploy.model.formats import HF_CONFIG, MISTRAL_CONFIG, Formats, needed_files, resolve, weight_files
from deploy.model.hub_calls import Unreachable, bounded, explained, reason
from deploy.model.hub_file import fetch_blob
from deploy.settings import VllmSettings

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOOK_TIMEOUT_S = 1.5
CONNECT_TIMEOUT_S = 20.0

_REQUEST_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Listing:
    """What the hub, or the cache's copy of its listing, says about one commit of a model; sizes in bytes."""

    commit: str
    sizes: dict[str, int]
    formats: Formats

    @property
    def needed(self) -> dict[str, int]:
        """The files that serving the model reads."""
        return {name: self.sizes[name] for name in needed_files(self.sizes, self.formats)}

    @property
    def weights(self) -> dict[str, int]:
        """Those of them that hold the weights."""
        return {name: self.sizes[name] for name in weight_files(self.needed, self.formats.load_format)}


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` (or ``TRANSFORMERS_OFFLINE``) forbids asking the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached_snapshot(model: str, revision: str | None) -> Path | None:
    """The directory that the local cache has for this revision, complete or not; None when there is none."""
    from huggingface_hub import constants

    wanted = revision or constants.DEFAULT_REVISION
    reference = _repository(model) / "refs" / wanted
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else wanted
    snapshot = _repository(model) / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def cached_model(model: str, revision: str | None, vllm: VllmSettings) -> ModelDirectory | None:
    """The model in the local cache, if every file that serving it needs is there and whole."""
    snapshot = cached_snapshot(model, revision)
    if snapshot is None:
        return None
    listing = cached_listing(model, snapshot.name, vllm)
    if listing is not None and not all((snapshot / name).is_file() for name in listing.needed):
        return None
    try:
        return read_directory(snapshot, vllm)
    except UsageError:
        return None


def cached_listing(model: str, commit: str, vllm: VllmSettings) -> Listing | None:
    """The hub's listing of ``commit`` as an earlier download kept it; None when there is none or it is unusable."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        sizes = {file.path: int(file.size) for file in get_cached_repo_tree(model, revision=commit)}
        return Listing(commit, sizes, resolve(sizes, vllm, f"model {model!r}"))
    except (CachedRepoTreeNotFoundError, UsageError):
        return None


def look(model: str, revision: str | None, vllm: VllmSettings) -> tuple[Listing, Architecture]:
    """Ask the hub once what the model is made of, without downloading it; takes at most ``LOOK_TIMEOUT_S`` seconds.

    Raises:
        Unreachable: no answer in that time.
        UsageError: the hub has no such model or revision, or does not give it to this user.
    """
    # Imported here: on a busy machine importing alone could use up the time that the hub is given.
    from huggingface_hub import HfApi, hf_hub_download

    api = HfApi()

    def ask() -> tuple[Listing, Architecture]:
        listing = _ask(api, model, revision, vllm)
        name = MISTRAL_CONFIG if listing.formats.config_format == "mistral" else HF_CONFIG
        config = hf_hub_download(model, name, revision=listing.commit, etag_timeout=LOOK_TIMEOUT_S)
        return listing, read_architecture(Path(config).parent, listing.formats.config_format)[0]

    try:
        return bounded(ask, LOOK_TIMEOUT_S)
    except Exception as error:
        raise explained(error, model, revision) from error


def download(model: str, revision: str | None, vllm: VllmSettings, progress: Progress) -> Path:
    """Download the files that serving the model needs into the hub's local cache; returns their directory.

    What a download that was cut has left is gone on with. An unreachable hub is given up after ``CONNECT_TIMEOUT_S``
    seconds.

    Raises:
        UsageError: the hub has no such model or revision, or does not give it to this user, or it cannot be served.
        StartError: the hub cannot be reached, the download broke off, or the disk is full.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    progress(f"asking the model hub for {model}")
    try:
        listing = bounded(lambda: _ask(api, model, revision, vllm), CONNECT_TIMEOUT_S)
    except Exception as error:
        raise explained(error, model, revision) from error
    needed = listing.needed
    progress(f"downloading {model}: {len(needed)} files, {sum(needed.values()) / 1e9:.1f} GB")
    try:
        return _download(model, listing, progress)
    except Exception as error:
        raise _broken_off(error, model, revision) from error


def _repository(model: str) -> Path:
    """Where the cache keeps a model; its layout is documented in huggingface_hub's guide "Understand caching"."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / str(constants.REPO_ID_SEPARATOR).join(["models", *model.split("/")])


def _ask(api: "HfApi", model: str, revision: str | None, vllm: VllmSettings) -> Listing:
    # Also notes in the cache which commit the revision stands for, so that the model is found there without the hub.
    commit = api.resolve_revision(model, revision=revision).resolved
    info = api.model_info(model, revision=commit, files_metadata=True, timeout=_REQUEST_TIMEOUT_S)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    return Listing(commit, sizes, resolve(sizes, vllm, f"model {model!r}"))


def _download(model: str, listing: Listing, progress: Progress) -> Path:
    """The small files first, so that a refusal comes early and an unfinished download can be planned with."""
    from huggingface_hub import snapshot_download

    def fetch(names: list[str]) -> Path:
        return Path(
            snapshot_download(model, revision=listing.commit, allow_patterns=names, etag_timeout=_REQUEST_TIMEOUT_S)
        )

    snapshot = fetch([name for name in listing.needed if name not in listing.weights])
    for name in listing.weights:
        if not (snapshot / name).is_file():
            fetch_blob(model, listing.commit, name, _repository(model), progress)
    return fetch(list(listing.needed))


def _broken_off(error: Exception, model: str, revision: str | None) -> ServeError:
    told = explained(error, model, revision)
    if isinstance(told, Unreachable):
        return StartError(f"the download of {model!r} broke off ({reason(error)}): start again to resume it")
    return told
