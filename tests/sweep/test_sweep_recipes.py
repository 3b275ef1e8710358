"""The shipped sweeps of W2, W4 and W5 on small files in the real layouts: their runs, and the tables they end in."""

from pathlib import Path

import pytest

from data.fake_files import streets_and_pets
from terrazzo.commands.compare import compare
from terrazzo.commands.sweep import Prepared, prepare, write_folder, write_results
from terrazzo.commands.sweep_tasks import runs_of, tasks_of
from terrazzo.commands.sweep_work import work_through
from terrazzo.config import config_of
from terrazzo.files import write_text
from terrazzo.launch.state import RunState, read_states
from terrazzo.sweep.plan import load_sweep, plan

QUICK = ("device=cpu", "threads=1", "data.workers=0", "log_every={steps: 1}", "validate_every={epochs: 9}", "batch=2")
SMALL = (
    "augment.base={kind: exact, height: 32, width: 64}",
    "evaluation.resize={kind: exact, height: 32, width: 64}",
)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streets_and_pets(tmp_path_factory.mktemp("trees"), frames=5)


@pytest.fixture(autouse=True)
def no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.commands.report.LATENCY_SECONDS", 0.0)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quicker; but the run's folder says that it is over, as with one."""
    monkeypatch.setattr(
        "terrazzo.commands.train.report_run", lambda folder, *args, **options: write_text(folder / "report.html", "")
    )


def worked(prepared: Prepared) -> dict[str, RunState]:
    """The states after all tasks, each worked through as its process would, in the launcher's order."""
    write_folder(prepared)
    for task in tasks_of(prepared.sweep, prepared.runs, prepared.states, prepared.todo):
        work_through(prepared.folder.path, runs_of(task))
    return read_states(prepared.folder.states)


def test_w2_is_twenty_runs() -> None:
    runs = plan(load_sweep("cityscapes_two_stage"))
    assert len(runs) == 20
    assert {run.varied["arch"] for run in runs} == {"unet", "manet", "fpn", "pspnet", "unetplusplus"}
    assert {run.varied["encoder"] for run in runs} >= {"timm-efficientnet-b5", "mit_b2"}
    assert all(config_of(run.tree).adapt.kind == "staged" for run in runs)


def test_w2_ends_in_its_table_with_the_refused_pair_in_it(trees: Path, tmp_path: Path) -> None:
    """Two architectures with two encoders: three results, and the pair that SMP refuses with its reason."""
    axes = ["sweep.grid.model.arch=[fpn, unetplusplus]", "sweep.grid.model.encoder=[mobilenet_v2, mit_b0]"]
    steps = ["length={steps: 2}", "adapt.frozen={steps: 1}", "save_every={steps: 2}", "model.weights=none"]
    root = [
        f"data.root={trees / 'cityscapes'}",
        f"out={tmp_path / 'w2'}",
        "sweep.checkpoints=[last]",
    ]
    sweep = load_sweep("cityscapes_two_stage", [*root, *axes, *steps, *SMALL, *QUICK])
    states = worked(prepare(sweep))
    assert sorted(state.status for state in states.values()) == ["finished"] * 3 + ["refused"]
    (refused,) = (state for state in states.values() if state.status == "refused")
    assert refused.name.startswith("arch=unetplusplus-encoder=mit_b0")
    assert "SMP's unetplusplus cannot use the encoder mit_b0" in str(refused.reason)
    assert prepare(sweep).todo == [], "it is not tried again"
    results = write_results(prepare(sweep).folder, states)
    assert results is not None
    text = results.read_text()
    assert text.count("finished") >= 3
    assert "cannot use the encoder" in text
    assert compare([sweep.folder]) is not None


@pytest.mark.usefixtures("no_report")
def test_w5_pretrains_then_transfers_in_order(trees: Path, tmp_path: Path) -> None:
    roots = [f"data.root={trees / 'pets'}", f"sweep.runs.pretrain.data.root={trees / 'cityscapes'}"]
    steps = ["length={steps: 1}", "sweep.runs.pretrain.length={steps: 2}", "sweep.runs.pretrain.batch=2"]
    quick = ["save_every={steps: 1}", "sweep.checkpoints=[last]", "sweep.runs_per_job=4", f"out={tmp_path / 'w5'}"]
    sweep = load_sweep("pets_transfer", [*roots, *steps, *quick, *QUICK])
    states = worked(prepare(sweep))
    assert {state.status for state in states.values()} == {"finished"}, states
    assert {name[:-9] for name in states} == {
        "pretrain",
        "scratch",
        *(f"{parts}{rate}" for parts in ("all", "frozen") for rate in ("", "_half_rate")),
    }
    (frozen,) = (name for name in states if name.startswith("frozen-"))
    folder = tmp_path / "w5/runs" / frozen
    assert "encoder" not in (folder / "parameters.txt").read_text()
    assert "pretrain-" in (folder / "config.yaml").read_text()
    assert (folder / "weights.txt").exists(), "the encoder came from the other run"


@pytest.mark.usefixtures("no_report")
def test_w4_takes_a_list_of_runs(trees: Path, tmp_path: Path) -> None:
    (tmp_path / "hyperparameters_1.txt").write_text("1 2 resnet_18 True 0.01 0.01 0.95\n")
    quick = [f"data.root={trees / 'cityscapes'}", f"out={tmp_path / 'w4'}", "sweep.checkpoints=[last]", "data.limit=2"]
    sweep = load_sweep("cityscapes_sweep", [*quick, *SMALL, *QUICK, f"sweep.lists.files={tmp_path}/hyper*.txt"])
    (state,) = worked(prepare(sweep)).values()
    assert state.status == "finished", state.reason
    assert state.name.startswith("length=1-batch=2-model=resnet_18-aug=True-lr=0.01-weight_decay=0.01-gamma=0.95-")
