"""For all tests: in CI nothing may be skipped. A test that cannot run there is a fault of the machine, and says so."""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    report: pytest.TestReport = yield  # type: ignore[misc]
    expected_failure = hasattr(report, "wasxfail")
    if os.environ.get("PANTHEON_CI") and report.skipped and not expected_failure:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped in CI, where nothing may be. {reason}"
    return report
