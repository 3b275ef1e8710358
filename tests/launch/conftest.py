"""A real SLURM of two nodes with one core each on this machine, for the tests that need one."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from terrazzo.launch.slurm_jobs import FILE, cancel_all

SCRIPTS = Path(os.environ.get("TERRAZZO_SHARED", Path(__file__).parents[3] / "shared")) / "slurm"


CONTROLLER_PORT = 16817
"""As in slurm-up.sh."""


def answers() -> bool:
    return subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0


def listens() -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", CONTROLLER_PORT)) == 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[None]:
    """SLURM_CONF is that of a cluster with the partitions main and high; one test at a time has it. A cluster that
    slurm-up.sh has started and SLURM_CONF names already is used as it is."""
    if shutil.which("slurmctld") is None:
        pytest.skip("no SLURM on this machine: apt-get install slurm-wlm munge")
    with FileLock(Path(tempfile.gettempdir()) / "terrazzo-slurm.lock"):
        conf = Path(os.environ.get("SLURM_CONF", "/none"))
        if conf.is_file() and "ClusterName=ci\n" in conf.read_text() and answers():
            yield
            for jobs in tmp_path.rglob(FILE):
                cancel_all(jobs.parent)
            return
        if os.geteuid() or not (SCRIPTS / "slurm-up.sh").is_file():
            pytest.skip(f"a SLURM of one's own is started as root, by {SCRIPTS / 'slurm-up.sh'}")
        until = time.monotonic() + 20  # the controller of the test before may still be going
        while listens():
            if time.monotonic() > until:
                pytest.skip(f"another SLURM listens on port {CONTROLLER_PORT}; SLURM_CONF does not name its settings")
            time.sleep(0.2)
        folder = tmp_path / "slurm"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_TEST_DIR", str(folder))
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            up = subprocess.run(
                [SCRIPTS / "slurm-up.sh", "2", "1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            if up.returncode:
                subprocess.run([SCRIPTS / "slurm-down.sh"], check=False)
                pytest.skip(f"SLURM does not start here: {up.stderr.strip()[-300:]}")
            yield
            subprocess.run(["scancel", "--me"], check=False)
            subprocess.run([SCRIPTS / "slurm-down.sh"], check=False)
