"""Profiles: the YAML files in ``configs/``, or anybody's own, that say what differs from the defaults."""

from pathlib import Path
from typing import Any

from deploy.errors import UsageError
from deploy.settings import DEMO_MODEL
from deploy.strict_yaml import parse_yaml

DIRECTORY = Path(__file__).resolve().parent.parent / "configs"
# The configuration of Ray Serve itself lies beside the profiles; it names one of them.
_RAY_SERVE = "serve"


def shipped() -> list[str]:
    """Names of the profiles in ``configs/``, sorted."""
    return sorted(file.stem for file in DIRECTORY.glob("*.yaml") if file.stem != _RAY_SERVE)


def read(profile: str) -> dict[Any, Any]:
    """The content of a shipped profile (by name) or of a file (ends in .yaml or .yml, or contains a slash).

    Raises:
        UsageError: no such profile, not readable, malformed, not a mapping, or it chooses a profile itself.
    """
    is_file = "/" in profile or profile.endswith((".yaml", ".yml"))
    if not is_file and profile not in shipped():
        raise UsageError(f"unknown profile {profile!r}: take one of {', '.join(shipped())}, or a YAML file")
    path = Path(profile) if is_file else DIRECTORY / f"{profile}.yaml"
    source = profile if is_file else f"configs/{profile}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"profile {profile!r} does not exist: give a YAML file, or one of {', '.join(shipped())}"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"profile {profile!r} is not UTF-8 text: save it as such") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"profile {profile!r} cannot be read: {getattr(error, 'strerror', error)}") from None
    content = parse_yaml(text, source)
    if not isinstance(content, dict):
        raise UsageError(f"{source} is not a mapping: write settings as KEY: VALUE")
    if "profile" in content:
        raise UsageError(f"{source} sets profile, which a profile cannot do: remove that line")
    return content


def made_for(model: str) -> str | None:
    """The shipped profile of ``model``: the one that is named like it and names it, or ``None``.

    Several profiles may name one model (an autoscaled one, a quantised one); only the plain one bears its name.
    """
    name = model.rpartition("/")[2].lower()
    if name in shipped() and read(name).get("model", DEMO_MODEL) == model:
        return name
    return None
