"""YAML as people write it: malformed text and duplicate keys are errors that name the line."""

from typing import Any

import yaml

from deploy.errors import UsageError


class _StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and drops the first; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value!r} appears twice"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str) -> Any:
    """The value of one YAML or JSON document; ``source`` names it in the error.

    Raises:
        UsageError: malformed; the sentence holds the line where the parser stopped.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = " ".join((error.problem or "it cannot be read").split())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"the character {chr(error.character)!r} is not allowed"
    except Exception:
        # What PyYAML itself lets escape: impossible dates, endless numbers or nesting, tags on the wrong kind of value.
        line, problem = 1, "it holds a value that cannot be read"
    raise UsageError(f"{source}, line {line}: malformed YAML, {problem}")
