"""A model of the Hugging Face hub: found in the local cache, asked for at the hub, or downloaded, in bounded time."""

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deploy.architecture import Architecture
from deploy.errors import ServeError, StartError, UsageError
from deploy.model.cache import Progress
from deploy.model.directory import ModelDirectory, read_architecture, read_directory
from deploy.model.formats import HF_CONFIG, MISTRAL_CONFIG, Formats, needed_files, resolve, weight_files
from deploy.settings import VllmSettings

LOOK_TIMEOUT_S = 1.5
CONNECT_TIMEOUT_S = 20.0

_REQUEST_TIMEOUT_S = 10.0
_T = TypeVar("_T")


class Unreachable(StartError):
    """The hub did not answer, or not in time: what is on this machine may still do."""


@dataclass(frozen=True)
class Listing:
    """What the hub, or the cache's copy of its listing, says about one revision of a model; sizes in bytes."""

    revision: str
    sizes: dict[str, int]
    formats: Formats

    @property
    def needed(self) -> dict[str, int]:
        """The files that serving the model reads."""
        return {name: self.sizes[name] for name in needed_files(self.sizes, self.formats)}

    @property
    def weight_bytes(self) -> int:
        """Size of the files that hold the weights."""
        return sum(self.sizes[name] for name in weight_files(self.sizes, self.formats.load_format))


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` (or ``TRANSFORMERS_OFFLINE``) forbids asking the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached_snapshot(model: str, revision: str | None) -> Path | None:
    """The directory that the local cache has for this revision, complete or not; None when there is none.

    The cache's layout is documented in huggingface_hub's guide "Understand caching".
    """
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / constants.REPO_ID_SEPARATOR.join(["models", *model.split("/")])
    wanted = revision or constants.DEFAULT_REVISION
    reference = repository / "refs" / wanted
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else wanted
    snapshot = repository / "snapshots" / commit
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

    def ask() -> tuple[Listing, Architecture]:
        from huggingface_hub import hf_hub_download

        listing = _listing(model, revision, vllm)
        name = MISTRAL_CONFIG if listing.formats.config_format == "mistral" else HF_CONFIG
        config = hf_hub_download(model, name, revision=listing.revision, etag_timeout=LOOK_TIMEOUT_S)
        return listing, read_architecture(Path(config).parent, listing.formats.config_format)[0]

    return _bounded(ask, LOOK_TIMEOUT_S, model, revision)


def download(model: str, revision: str | None, vllm: VllmSettings, progress: Progress) -> Path:
    """Download the files that serving the model needs into the hub's local cache; returns their directory.

    What an interrupted download left is used by the next one. An unreachable hub is given up after
    ``CONNECT_TIMEOUT_S`` seconds.

    Raises:
        UsageError: the hub has no such model or revision, or does not give it to this user, or it cannot be served.
        StartError: the hub cannot be reached, the download broke off, or the disk is full.
    """
    from huggingface_hub import snapshot_download

    progress(f"asking the model hub for {model}")
    listing = _bounded(lambda: _listing(model, revision, vllm), CONNECT_TIMEOUT_S, model, revision)
    needed = listing.needed
    progress(f"downloading {model}: {len(needed)} files, {sum(needed.values()) / 1e9:.1f} GB")
    try:
        directory = snapshot_download(
            model, revision=listing.revision, allow_patterns=list(needed), etag_timeout=_REQUEST_TIMEOUT_S
        )
    except Exception as error:
        explained = _explained(error, model, revision)
        if isinstance(explained, Unreachable):
            explained = StartError(
                f"the download of {model!r} broke off ({type(error).__name__}): start again to go on where it stopped"
            )
        raise explained from error
    return Path(directory)


def _listing(model: str, revision: str | None, vllm: VllmSettings) -> Listing:
    from huggingface_hub import HfApi

    api = HfApi()
    # Also notes in the cache which commit the revision stands for, so that the model is found there without the hub.
    resolved = api.resolve_revision(model, revision=revision)
    info = api.model_info(model, revision=resolved.resolved, files_metadata=True, timeout=_REQUEST_TIMEOUT_S)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    return Listing(str(resolved.resolved), sizes, resolve(sizes, vllm, f"model {model!r}"))


def _bounded(call: Callable[[], _T], seconds: float, model: str, revision: str | None) -> _T:
    """Call in a thread that is given up after ``seconds``: name resolution and retries know no timeout of ours."""
    outcome: list[tuple[_T | None, Exception | None]] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    result, error = outcome[0] if outcome else (None, TimeoutError())
    if error is not None:
        raise _explained(error, model, revision) from error
    return result  # type: ignore[return-value]


def _explained(error: Exception, model: str, revision: str | None) -> ServeError:
    """The sentence that tells a person what to do about an error of huggingface_hub's."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, ServeError):
        return error
    if isinstance(error, GatedRepoError):
        return UsageError(
            f"model {model!r} is gated: accept the conditions on its hub page, and set HF_TOKEN to a token of yours"
        )
    if isinstance(error, RevisionNotFoundError):
        return UsageError(f"model {model!r} has no revision {revision!r}: give one of its branches, tags or commits")
    status = _status(error)
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return UsageError(
            f"the model hub has no model {model!r}, or it is private: check the spelling, set HF_TOKEN, "
            "or give a local directory with --model /path"
        )
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return UsageError(f"the model hub refuses {model!r} (HTTP {status}): set HF_TOKEN to a token that may read it")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return StartError(f"no space left to download {model!r}: free some, or set HF_HOME to a place on another disk")
    return Unreachable(
        f"cannot reach the model hub to download {model!r} ({f'HTTP {status}' if status else type(error).__name__}): "
        "connect, set HF_ENDPOINT to a mirror, or give a local directory with --model /path"
    )


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error, or the one it was raised from, carries."""
    response = getattr(error, "response", None)
    if response is None:
        return _status(error.__cause__) if error.__cause__ else None
    return int(response.status_code)
