"""One large file of the hub, fetched so that a download that was cut is resumed by the next start.

huggingface_hub 2 resumes within one call only and drops a partial file afterwards (``_download_to_tmp_and_move``), so
cutting a download of Mistral 7B near its end would cost gigabytes. Here the partial file stays in the cache under a
name of ours, and a complete one becomes the blob that ``snapshot_download`` finds and links.
"""

import hashlib
from pathlib import Path

from deploy.errors import StartError
from deploy.model.cache import Progress, locked

_TIMEOUT_S = 10.0
_SHA256_DIGITS = 64


def fetch_blob(model: str, commit: str, name: str, repository: Path, progress: Progress) -> None:
    """Fetch the file ``name`` of ``model`` into the blobs of ``repository``, the model's directory in the hub cache.

    Shows the library's progress bar on stderr. What an earlier attempt left is gone on with; the content is checked
    against its SHA-256, which is the name that the hub gives to a large file.

    Raises:
        StartError: the content is not what the hub announced.
        Exception: huggingface_hub's and httpx's errors, see ``hub_calls.explained``.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(model, name, revision=commit)
    metadata = get_hf_file_metadata(url, timeout=_TIMEOUT_S)
    if metadata.etag is None or metadata.size is None:
        return
    blob = repository / "blobs" / metadata.etag
    part = blob.with_name(f"{metadata.etag}.part")
    with locked(blob.with_name(f"{metadata.etag}.lock"), f"downloading {name}", progress):
        if blob.exists():
            return
        with part.open("ab") as file:
            if file.tell() > metadata.size:
                file.seek(0)
                file.truncate()
            done = file.tell()
            if 0 < done < metadata.size:
                progress(f"going on with {name} at {done / 1e9:.1f} of {metadata.size / 1e9:.1f} GB")
            http_get(
                url,
                file,
                resume_size=done,
                headers=build_hf_headers(),
                expected_size=metadata.size,
                displayed_filename=name,
            )
        _check(part, metadata.etag, name)
        part.rename(blob)


def _check(part: Path, etag: str, name: str) -> None:
    if len(etag) != _SHA256_DIGITS:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != etag:
        part.unlink()
        raise StartError(f"{name} arrived with the SHA-256 {found} instead of {etag}: start again to download it anew")
