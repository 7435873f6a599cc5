"""Makes and ends API keys: ``python -m deploy.keys new --name TEAM``. A running server notices by itself."""

import fcntl
import json
import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml
from pydantic import ValidationError

from deploy.errors import ServeError, UsageError
from deploy.gateway.key_file import Key, KeyFile, digest, new_token, prefix_of, read

DEFAULT_FILE = Path("keys.yaml")
_COUNT = "a whole number from 1"
_REMEDIES = {
    "requests_per_minute": _COUNT,
    "tokens_per_minute": _COUNT,
    "priority": "low, normal or high",
}
Keys = tuple[Key, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 2 for a mistake, which is one sentence on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except ServeError as error:
        print(f"deploy.keys: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m deploy.keys", description="Make, list and end API keys.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a key and print it, once: the file holds its hash only")
    new.add_argument("--name", required=True, help="whom the key is for")
    new.add_argument("--models", nargs="+", metavar="MODEL", help="served models it may use [default: all]")
    new.add_argument("--expires", metavar="TIME", help="for example 2030-01-31T00:00:00Z [default: never]")
    new.add_argument(
        "--requests-per-minute",
        metavar="N",
        help="requests it may send in a minute [default: what the server's settings say]",
    )
    new.add_argument(
        "--tokens-per-minute",
        metavar="N",
        help="tokens, of prompts and completions, that it may use in a minute [default: the same]",
    )
    new.add_argument(
        "--priority", default="normal", metavar="LEVEL", help="low, normal or high: who waits less [default: normal]"
    )
    new.add_argument("--guard", action="store_true", help="ask for the server's guard in every request of this key")
    listing = commands.add_parser("list", help="print the keys of the file, without any secret")
    disable = commands.add_parser("disable", help="refuse a key from now on, and keep its entry")
    remove = commands.add_parser("remove", help="delete a key's entry")
    for command, run in ((new, _new), (listing, _list), (disable, _disable), (remove, _remove)):
        command.add_argument("--file", type=Path, default=DEFAULT_FILE, help=f"the key file [default: {DEFAULT_FILE}]")
        command.set_defaults(run=run)
    for command in (disable, remove):
        command.add_argument("key", metavar="NAME", help="a name, for all its keys, or the prefix of one key")
    return parser


def _new(arguments: Namespace) -> None:
    token = new_token()
    key = _entry(token, arguments)
    existing: Keys = ()

    def add(keys: Keys) -> Keys:
        nonlocal existing
        existing = keys
        return (*keys, key)

    update(arguments.file, add, create=True)
    print(token)
    same = sum(other.name == key.name for other in existing) + 1
    print(f"added {key.prefix} to {arguments.file}; {key.name} has {same} key{'s'[: same > 1]}", file=sys.stderr)


def _entry(token: str, arguments: Namespace) -> Key:
    try:
        expires = datetime.fromisoformat(arguments.expires) if arguments.expires else None
    except ValueError:
        expires = None
    if arguments.expires and (expires is None or expires.tzinfo is None or expires <= datetime.now(UTC)):
        raise UsageError(
            f"--expires is {arguments.expires!r}: give a time to come, with its zone, for example 2030-01-31T00:00:00Z"
        )
    secret = token.encode()
    try:
        return Key.model_validate(
            {
                "name": arguments.name,
                "prefix": prefix_of(secret),
                "hash": digest(secret),
                "models": arguments.models,
                "expires": expires,
                "requests_per_minute": _number(arguments.requests_per_minute),
                "tokens_per_minute": _number(arguments.tokens_per_minute),
                "priority": arguments.priority,
                "guard": arguments.guard,
            }
        )
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        remedy = _REMEDIES.get(field, "letters, digits, dots, dashes or underscores")
        raise UsageError(f"--{field.replace('_', '-')} is {getattr(arguments, field)!r}: give {remedy}") from None


def _number(text: str | None) -> int | str | None:
    """What ``text`` says; a text that is no number is left for ``Key`` to refuse."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return text


def _list(arguments: Namespace) -> None:
    rows = [("PREFIX", "NAME", "MODELS", "REQUESTS/MIN", "TOKENS/MIN", "PRIORITY", "GUARD", "EXPIRES", "STATE")]
    for key in read(arguments.file).keys:
        expires = "never" if key.expires is None else key.expires.isoformat()
        requests, tokens = (str(limit or "default") for limit in (key.requests_per_minute, key.tokens_per_minute))
        guard = "always" if key.guard else "default"
        models = " ".join(key.models or ("all",))
        rows.append((key.prefix, key.name, models, requests, tokens, key.priority, guard, expires, _state(key)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _state(key: Key) -> str:
    if key.disabled:
        return "disabled"
    return "expired" if key.expires is not None and key.expires <= datetime.now(UTC) else "valid"


def _disable(arguments: Namespace) -> None:
    def disable(keys: Keys) -> Keys:
        named = _named(keys, arguments)
        return tuple(key.model_copy(update={"disabled": True}) if key in named else key for key in keys)

    update(arguments.file, disable)


def _remove(arguments: Namespace) -> None:
    def remove(keys: Keys) -> Keys:
        named = _named(keys, arguments)
        return tuple(key for key in keys if key not in named)

    update(arguments.file, remove)


def _named(keys: Keys, arguments: Namespace) -> Keys:
    named = tuple(key for key in keys if arguments.key in (key.name, key.prefix))
    if not named:
        raise UsageError(f"no key in {arguments.file} has the name or prefix {arguments.key!r}: `list` shows them")
    return named


def update(path: Path, change: Callable[[Keys], Keys], *, create: bool = False) -> None:
    """Replace the keys in ``path`` by ``change`` of them, at once and readable by its owner only.

    Comments in the file are lost. ``create`` allows a file that is not there yet.

    Raises:
        UsageError: the file or its directory cannot be used.
    """
    # A link stays a link.
    path = path.resolve()
    try:
        with _alone_in(path.parent):
            keys = () if create and not path.exists() else read(path).keys
            _write(path, KeyFile(keys=change(keys)))
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be written ({error.strerror}): choose another --file") from None


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Two commands at once would lose the key that the first one printed."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, file: KeyFile) -> None:
    content = file.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(content, indent=2) if path.suffix == ".json" else yaml.safe_dump(content, sort_keys=False)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as temporary:
            temporary.write(text)
            temporary.flush()
            os.fsync(temporary.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
