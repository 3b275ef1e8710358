"""Of SLURM, what can be seen without one: scripts, lists, what its answers mean, and that no answer is an answer."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from terrazzo.base import InputError
from terrazzo.commands.sweep_slurm import seen, submit_runs
from terrazzo.launch import slurm
from terrazzo.launch.slurm import GONE, Job, Slurm, read_accounts, read_queue
from terrazzo.launch.slurm_jobs import Element, Ledger, Submission, look, read_ledger, submitting
from terrazzo.launch.slurm_script import Array, Files, arrays, dependency, levels, ranges, script_text, tasks_text
from terrazzo.launch.state import RunState
from terrazzo.launch.task import Task

QUEUE = """\
12_2|COMPLETED|None|n2
33_1|COMPLETED|None|n[1-2]
3_2|FAILED|NonZeroExitCode|n2
39|FAILED|BadConstraints|
61_1|PENDING|JobArrayTaskLimit|
63_3|PENDING|Dependency|
1_2|PENDING|BeginTime|
61_2|RUNNING|None|n1
"""
"""Of SLURM 22.05.8."""

ACCOUNTS = """\
61_3|PENDING|None assigned
61_2|CANCELLED by 1000|n1
61_1|COMPLETED|n[1-2]
"""

SETTINGS: dict[str, object] = {
    "partition": "gpu",
    "account": "course",
    "qos": "low",
    "constraint": "a100",
    "gpus_per_node": 1,
    "gres": "gpu:1",
    "nodes": 2,
    "tasks_per_node": 2,
    "cpus_per_task": 3,
    "memory_gb": 3.5,
    "time_minutes": 60,
    "signal_seconds": 90,
    "at_once": 2,
    "container": "image",
    "container_mounts": ["/data"],
    "setup": ["module load cuda"],
    "master_address": "10.0.0.1",
    "master_port": 29500,
    "sbatch": ["--reservation=course"],
}
"""A value of each setting that is not its default."""


def task(name: str, *after: str) -> Task:
    return Task(name, ("python", "-m", "terrazzo", "sweep", "/my sweep", "--work", name), Path(f"/logs/{name}"), after)


def script(cfg: Slurm, array: Array | None = None, waits_for: str | None = None) -> str:
    array = array or Array({1: task("a")})
    return script_text(cfg, "name-1a2b", array, Files.of(Path("/my sweep"), "name-1a2b"), waits_for)


def test_answers_of_slurm_are_read() -> None:
    jobs = {job.id: job for job in read_queue(QUEUE)}
    assert jobs["33_1"] == Job("33_1", "COMPLETED", "", "n[1-2]")
    assert jobs["61_1"] == Job("61_1", "PENDING", "JobArrayTaskLimit", "")
    assert [id for id, job in jobs.items() if job.in_queue] == ["61_1", "63_3", "1_2", "61_2"]
    assert read_accounts(ACCOUNTS) == [
        *(Job("61_3", "PENDING"), Job("61_2", "CANCELLED", nodes="n1"), Job("61_1", "COMPLETED", nodes="n[1-2]"))
    ]


def test_numbers_are_written_as_ranges() -> None:
    assert [ranges(numbers) for numbers in ([1], [1, 2], [1, 2, 3, 7, 9, 10], [5])] == ["1", "1-2", "1-3,7,9-10", "5"]


def test_tasks_become_as_few_arrays_as_their_order_lets() -> None:
    first = [task(name) for name in "abcde"]
    pairs = [task("of_a", "a"), task("of_c", "c"), task("both", "a", "b")]
    assert levels([*pairs, *first]) == [first, pairs], "what comes after comes later"
    assert arrays(first, {}, 2) == [
        *(Array({1: first[0], 2: first[1]}), Array({1: first[2], 2: first[3]}, goes_on=True)),
        Array({1: first[4]}, goes_on=True),
    ]
    jobs = {name: f"7_{index}" for index, name in enumerate("abcde", 1)}
    together, same = arrays(pairs, jobs, 1000)
    assert (together, same) == (
        Array({1: pairs[2]}, after=("7_1", "7_2")),
        Array({1: pairs[0], 3: pairs[1]}, after_same="7"),
    )
    assert dependency(together, "6") == "afterok:7_1:7_2,afterany:6"
    assert dependency(same, None) == "aftercorr:7"
    assert tasks_text(same).splitlines() == [
        *("/logs/of_a python -m terrazzo sweep '/my sweep' --work of_a", ""),
        "/logs/of_c python -m terrazzo sweep '/my sweep' --work of_c",
    ]
    assert arrays([task("x", "over")], jobs, 9) == [Array({1: task("x", "over")})], "waits for what is over"
    with pytest.raises(InputError, match="after each other in a circle: x, y"):
        levels([task("x", "y"), task("y", "x"), task("z")])


def test_the_script_asks_for_what_the_recipe_says() -> None:
    cfg = Slurm(
        partition="gpu",
        account="course",
        gpus_per_node=4,
        nodes=2,
        cpus_per_task=6,
        memory_gb=1.5,
        time_minutes=90,
        constraint="a100|h100",
        at_once=8,
        signal_seconds=300,
        container="/images/torch.sqsh",
        container_mounts=("/data:/data", "/home"),
        setup=("module load cuda", "source venv/bin/activate"),
        sbatch=("--mail-type=END",),
    )
    text = script(cfg, Array({1: task("a"), 2: task("b"), 5: task("c")}), "afterok:3_1")
    asked = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        *("--job-name=name-1a2b", "--array=1-2,5%8", "--dependency=afterok:3_1", "--kill-on-invalid-dep=yes"),
        *("--partition=gpu", "--account=course", '--constraint="a100|h100"', "--nodes=2", "--ntasks-per-node=4"),
        *("--cpus-per-task=6", "--gpus-per-node=4", "--mem=1536M", "--time=90", "--signal=USR1@300"),
        *(f"--chdir={Path.cwd()}", '--output="/my sweep/slurm/name-1a2b-%a.out"', "--open-mode=append", "--requeue"),
        "--mail-type=END",
    ]
    assert (
        "srun --kill-on-bad-exit=1 --cpus-per-task=6 --container-image=/images/torch.sqsh "
        '--container-mounts=/data:/data,/home "$@"\n'
    ) in text
    assert text.index("\nmodule load cuda\n") < text.index("\nsource venv/bin/activate\n") < text.index("srun --kill")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("setting", sorted(Slurm.model_fields.keys() - {"kind", "python"}))
def test_every_setting_is_seen_in_the_script(setting: str) -> None:
    value, beside = SETTINGS[setting], {"container": "image"} if setting == "container_mounts" else {}
    assert script(Slurm.model_validate({**beside, setting: value})) != script(Slurm.model_validate(beside))


def test_a_python_of_the_nodes_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.launch.slurm_jobs.submit_script", lambda script, cfg: "5")
    submit_runs(tmp_path, Slurm(python="/opt/python"), ["a"], lambda runs: [task("a")])
    (tasks,) = (tmp_path / "slurm").glob("*.tasks")
    assert tasks.read_text() == "/logs/a /opt/python -m terrazzo sweep '/my sweep' --work a\n"


def test_one_process_per_gpu() -> None:
    asked = {None: 1, "gpu": 1, "gpu:3": 3, "gpu:a100:2": 2, "shard:1,gpu:h100-80g:8": 8, "license:4": 1}
    assert {gres: Slurm(gres=gres).tasks for gres in asked} == asked
    assert [Slurm(gpus_per_node=4).tasks, Slurm(gpus_per_node=4, tasks_per_node=1).tasks] == [4, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gres": "gpu:1", "gpus_per_node": 1}, "give one of them"),
        ({"time_minutes": 2, "signal_seconds": 120}, "is not before the time limit"),
        ({"container_mounts": ("/data",)}, "give container=IMAGE"),
        ({"sbatch": ("reservation",)}, "write one as --name=value"),
        ({"sbatch": ("--comment=a\nrm -r /",)}, "is no option of sbatch"),
        ({"memory": 4}, "Extra inputs"),
    ],
)
def test_what_cannot_be_asked_is_said(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Slurm.model_validate(given)


def test_a_machine_without_slurm_or_a_cluster_that_is_down_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match=r"needs squeue of SLURM, which this machine does not have; .* launch.kind=local"
    ):
        submit_runs(tmp_path / "sweep", Slurm(), ["a"], lambda runs: [task("a")])
    (tmp_path / "squeue").write_text("#!/bin/bash\nread -t 30 <> <(:)\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setattr(slurm, "ANSWER_SECONDS", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    Ledger(submissions=(Submission(name="x", number="3", elements={1: Element(task="a", runs=("a",))}),)).write(
        tmp_path
    )
    with pytest.raises(InputError, match=r"squeue has not answered for 0\.2 s; the cluster may be down"):
        look(tmp_path)


def test_one_process_submits_and_a_damaged_ledger_is_said(tmp_path: Path) -> None:
    with submitting(tmp_path), pytest.raises(InputError, match="another terrazzo is submitting"), submitting(tmp_path):
        pass
    (tmp_path / "jobs.json").write_text('{"submissions": [{"na')
    with pytest.raises(InputError, match=r"jobs.json is not what terrazzo wrote .* delete it"):
        read_ledger(tmp_path)


@pytest.mark.parametrize(
    ("status", "attempts", "job", "shown", "said"),
    [
        ("finished", 1, Job("1_1", "COMPLETED"), "finished", None),
        ("failed", 1, Job("1_1", "FAILED", "NonZeroExitCode"), "failed", None),
        ("waiting", 0, Job("1_1", "PENDING", "Resources"), "queued", "waits in the queue: Resources"),
        ("failed", 1, Job("1_1", "PENDING", "BeginTime"), "queued", "waits in the queue: BeginTime"),
        ("stopped", 1, Job("1_1", "PENDING"), "queued", "waits in the queue: its turn"),
        ("waiting", 0, Job("1_1", "RUNNING", nodes="n1"), "queued", "has it on its list"),
        ("running", 1, Job("1_1", "RUNNING", nodes="n1"), "running", None),
        ("running", 1, Job("1_1", "TIMEOUT"), "stopped", "launch.signal_seconds"),
        ("running", 1, Job("1_1", "OUT_OF_MEMORY"), "failed", "launch.memory_gb more"),
        ("running", 1, Job("1_1", "NODE_FAIL"), "stopped", "lost its node"),
        ("waiting", 0, Job("1_1", GONE), "stopped", "was cancelled before it began"),
        ("running", 2, Job("1_1", GONE), "stopped", "has forgotten how it ended"),
        ("waiting", 0, Job("1_1", "FAILED", "NonZeroExitCode"), "failed", "see its log"),
    ],
)
def test_what_a_run_cannot_say_the_cluster_says(
    status: str, attempts: int, job: Job, shown: str, said: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Ledger(submissions=(Submission(name="x", number="1", elements={1: Element(task="t", runs=("a",))}),)).write(
        tmp_path
    )
    monkeypatch.setattr("terrazzo.launch.slurm_jobs.poll", lambda ids: dict.fromkeys(ids, job))
    states = {
        "a": RunState(name="a", hash="0", status=status, attempts=attempts),  # type: ignore[arg-type]
        "b": RunState(name="b", hash="0"),
    }
    now = seen(tmp_path, states)
    assert now["b"] == states["b"]
    assert now["a"].status == shown
    assert now["a"].reason == said or (said is not None and said in str(now["a"].reason))


def test_submitting_imports_no_torch() -> None:
    code = "import sys, terrazzo.launch.slurm_jobs, terrazzo.launch.slurm; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
