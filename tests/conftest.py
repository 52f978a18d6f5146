"""For all tests: in CI nothing may be skipped. A test that cannot run there is a fault of the machine, and says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

# A run that a script has put in the background (`make test &`) ignores Ctrl-C, and so would every program that it
# starts, those of which the tests want to see how they end included.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def in_ci() -> bool:
    return bool(os.environ.get("PANTHEON_CI"))


def refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that gives the skip's reason."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: skipped in CI, where nothing may be. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if in_ci() and report.skipped and not hasattr(report, "wasxfail"):
        refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself as a whole."""
    report = yield
    if in_ci() and report.skipped:
        refuse(report)
    return report
