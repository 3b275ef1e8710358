"""Where the shared data is, and one line at the end that lists what was skipped for want of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No test has a time limit; CI sees the same examples every time, a developer new ones.
settings.register_profile("terrazzo", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("terrazzo")

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core already: threads on top only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("TERRAZZO_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared real data sets; the test is skipped, with the reason, where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at TERRAZZO_SHARED={SHARED}")
    return folder


@pytest.fixture(scope="session")
def shared_parity() -> Path:
    """Folder of what other tools said about made-up data; the test is skipped, with the reason, where it is absent."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip(f"no parity data at TERRAZZO_SHARED={SHARED}")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks and maps as small as the tests' only lose by a second thread, many times over where tests run side by
    side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    names = sorted(f"{r.nodeid.split('::')[-1]} ({str(r.longrepr[2]).removeprefix('Skipped: ')})" for r in skipped)
    terminalreporter.write_line("skipped: " + ("; ".join(names) if names else "nothing"))
