"""What torchrun's and srun's variables say about where a process stands."""

from typing import Any

import pytest

from terrazzo.base import InputError
from terrazzo.engine.place import PORTS, Place, first_host, tasks_of_nodes

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "gpu1",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RUN_ID": "night",
    "TORCHELASTIC_RESTART_COUNT": "1",
}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NODELIST": "n[03-04,7]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def test_nobody_told_anything() -> None:
    assert Place.of({}) == Place(0, 1, 0, 1, "", 0, "")


def test_torchrun() -> None:
    assert Place.of(TORCHRUN) == Place(5, 8, 1, 4, "gpu1", 29400, "night-1")


def test_torchrun_within_a_step_of_srun_comes_first() -> None:
    assert Place.of({**SRUN, **TORCHRUN}).size == 8


def test_srun() -> None:
    place = Place.of(SRUN)
    assert place[:5] == (3, 5, 1, 2, "n03")
    assert place.port in PORTS
    assert place.life == "4711-0-0"
    assert Place.of({**SRUN, "SLURM_NODEID": "2"}).local_size == 1
    assert Place.of({**SRUN, "SLURM_STEP_ID": "1"}).port != place.port, "two steps of one job meet apart"
    assert Place.of({**SRUN, "SLURM_RESTART_COUNT": "2"}).life == "4711-0-2"
    told = Place.of({**SRUN, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "15000"})
    assert (told.address, told.port) == ("127.0.0.1", 15000)


@pytest.mark.parametrize(
    "without",
    [
        ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"),  # a batch script
        ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),  # a shell of salloc
    ],
)
def test_a_python_in_a_jobs_script_is_alone_however_many_tasks_the_job_has(without: tuple[str, ...]) -> None:
    assert Place.of({key: value for key, value in SRUN.items() if key not in without}) == Place()


def test_a_step_of_one_task_is_alone() -> None:
    assert Place.of({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) == Place()


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("n[1-2,7]", "n1"),
        ("gpu[003-016,20],login1", "gpu003"),
        ("login1,gpu[003-016]", "login1"),
        ("alone", "alone"),
        ("rack[2,4]-node[08-09].cluster,x", "rack2-node08.cluster"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_tasks_of_nodes() -> None:
    assert tasks_of_nodes("2(x3),1") == [2, 2, 2, 1]
    assert tasks_of_nodes("4") == [4]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": "8"}, "RANK=8 and WORLD_SIZE=8.*from 0 to 7"),
        ({"MASTER_ADDR": ""}, "no MASTER_ADDR.*torchrun"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'.*whole number"),
    ],
)
def test_variables_that_contradict_each_other(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Place.of({**TORCHRUN, **changes})
