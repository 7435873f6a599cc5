"""Prevents: a documented command that does not work, a link that leads nowhere, and a page that names one machine.

Every line `$ command` in a console block of the README and of docs/ needs a rule in RULES: run here, or run elsewhere
and where. A new command without a rule fails by name.
"""

import re
import shlex
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

from deploy import cli, metrics
from loadtest import __main__ as loadtest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

DRY_RUN = "planned here"
HELP = "printed here"
LIVE = "run by tests/live or by make test itself"
PLANNED_INSTEAD = "starts a server: its flags are planned here, serving them is what tests/live does"
LOADTEST = "parsed here; run here where the page shows what it prints"
CLUSTER = "needs a cluster: tests/chart/test_cluster.py and `make k8s-demo` run such commands"
ELSEWHERE = "needs a GPU, another machine, or minutes: not run by a test"

RULES = [
    (r"make (serve|test|setup|lint)( PORT=\d+)?( FLAGS=.*)?", LIVE),
    (r"make (bench|rehearse|docs|lock)", ELSEWHERE),
    (r"make setup DEVICE=gpu", ELSEWHERE),
    (r"curl -s localhost:8000/.*", LIVE),
    (r"(\.venv/bin/)?python serve\.py --help", HELP),
    (r"(\.venv/bin/)?python serve\.py .*--dry-run.*", DRY_RUN),
    (r"RAY_ADDRESS=\S+ \.venv/bin/python serve\.py .*", ELSEWHERE),
    (r"(\S+=\S+ )*(\.venv/bin/)?python serve\.py.*", PLANNED_INSTEAD),
    (r"make (image|k8s-demo|test-chart)( \w+=\S+)?", ELSEWHERE),
    (r"(docker|kind) .*", ELSEWHERE),
    (r"(helm|kubectl) .*", CLUSTER),
    (r"\.venv/bin/serve run .*", LIVE),
    (r"export .*", LIVE),
    (r"(\.venv/bin/)?python -m deploy\.keys .*", "run by test_keys_command.py"),
    (r"(\.venv/bin/)?python -m deploy\.usage .*", "run by test_usage_command.py"),
    (r"(\.venv/bin/)?python -m tests\.bench.*", ELSEWHERE),
    (r"\.venv/bin/locust -f loadtest/ .*", "run by test_loadtest_run.py and by tests/live"),
    (r"\.venv/bin/python -m loadtest .*", LOADTEST),
]


def commands() -> list[tuple[str, str]]:
    """Every documented command with its page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            found += [(str(page.relative_to(ROOT)), line[2:]) for line in block.splitlines() if line.startswith("$ ")]
    return found


def rule_of(command: str) -> str | None:
    return next((rule for pattern, rule in RULES if re.fullmatch(pattern, command)), None)


def flags_of(command: str) -> list[str]:
    words = shlex.split(command, comments=True)
    return words[words.index("serve.py") + 1 :]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 10


def test_every_documented_command_has_a_rule() -> None:
    assert [(page, command) for page, command in commands() if rule_of(command) is None] == []


@pytest.mark.parametrize(
    "command", sorted({command for _, command in commands() if rule_of(command) in {DRY_RUN, PLANNED_INSTEAD}})
)
def test_a_documented_command_plans_what_it_would_serve(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [flag for flag in flags_of(command) if flag != "--dry-run"]
    assert cli.main([*flags, "--dry-run"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith("model:\n")


def loadtest_commands() -> list[tuple[list[str], list[str]]]:
    """The words of every documented verb of the load test, and the lines that the page shows below it."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, *output = part.splitlines()
                if rule_of(command) == LOADTEST:
                    found.append((shlex.split(command)[3:], output))
    return found


@pytest.mark.parametrize(("words", "output"), loadtest_commands())
def test_a_documented_verb_of_the_load_test_is_one_and_prints_what_the_page_shows(
    words: list[str], output: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = loadtest.VERBS[words[0]]
    _, rest = loadtest._parser(words[0]).parse_known_args(words)
    assert verb.passes_on or not rest
    if output:
        monkeypatch.chdir(ROOT)
        assert loadtest.main(words) == 0
        assert capsys.readouterr().out.splitlines()[: len(output)] == output


def links() -> list[tuple[str, str]]:
    return [
        (str(page.relative_to(ROOT)), target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
        if "://" not in target
    ]


def test_every_link_leads_to_a_file() -> None:
    assert [(page, target) for page, target in links() if not (ROOT / page).parent.joinpath(target).exists()] == []
    assert len(links()) > 10


def test_no_page_names_a_directory_of_one_machine() -> None:
    assert [str(page) for page in PAGES if re.search(r"/root/|/home/\w+/", page.read_text())] == []


def test_every_metric_of_our_own_is_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    ours = [metric for metric in vars(metrics).values() if isinstance(metric, Counter | Gauge | Histogram)]
    names = [family.name for metric in ours for family in metric.describe()]
    assert len(names) > 5
    assert [name for name in names if name not in text] == []
