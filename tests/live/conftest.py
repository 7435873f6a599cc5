"""What a failed test says beside its own traceback: how the deployments were that ran meanwhile."""

from collections.abc import Generator

import pytest

from tests.live.deployment import Deployment


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"serve.py on port {one.port}", one.describe()) for one in Deployment.running]
    return report
