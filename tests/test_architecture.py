"""Imports run one way, from what is built to what it is built of; siblings meet in `commands/` only."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "terrazzo"

FLOORS: list[set[str]] = [
    {"terrazzo.base", "terrazzo.faults", "terrazzo.files"},
    {"terrazzo.output", "terrazzo.recipe"},
    {"terrazzo.kernels", "terrazzo.published"},
    {
        "terrazzo.data",
        "terrazzo.models",
        "terrazzo.losses",
        "terrazzo.metrics",
        "terrazzo.optim",
        "terrazzo.cost",
        "terrazzo.track",
    },
    {"terrazzo.adapt", "terrazzo.engine", "terrazzo.infer", "terrazzo.check", "terrazzo.discover", "terrazzo.launch"},
    {"terrazzo.config", "terrazzo.report", "terrazzo.prepare"},
    {"terrazzo.description"},
    {"terrazzo.bundle", "terrazzo.convert", "terrazzo.sweep", "terrazzo.comparison"},
    {"terrazzo.sources"},
    {"terrazzo.adapters"},
    {"terrazzo.commands"},
    {"terrazzo.terminal", "terrazzo.terminal_sweep"},
    {"terrazzo.cli_convert", "terrazzo.cli_data", "terrazzo.cli_find", "terrazzo.cli_models", "terrazzo.cli_runs"},
    {"terrazzo.cli"},
    {"terrazzo.__main__"},
]
"""Lowest first. A room may import from lower floors, and its own files; a floor's rooms do not import each other."""

WITHIN: set[tuple[str, str]] = {
    ("terrazzo.commands.train", "terrazzo.commands.check"),
    ("terrazzo.commands.train", "terrazzo.commands.evaluate"),
    ("terrazzo.commands.train", "terrazzo.commands.report"),
    ("terrazzo.commands.train", "terrazzo.commands.start"),
    ("terrazzo.commands.find_batch", "terrazzo.commands.start"),
    ("terrazzo.commands.find_batch", "terrazzo.commands.train"),
    ("terrazzo.commands.find_lr", "terrazzo.commands.start"),
    ("terrazzo.commands.find_lr", "terrazzo.commands.train"),
    ("terrazzo.commands.replay", "terrazzo.commands.start"),
    ("terrazzo.commands.replay", "terrazzo.commands.train"),
    ("terrazzo.commands.sets", "terrazzo.commands.evaluate"),
    *(
        (f"terrazzo.commands.{verb}", "terrazzo.commands.sets")
        for verb in ("find_batch", "find_lr", "replay", "start", "train", "sweep_estimate", "sweep_score", "sweep_work")
    ),
    *(
        (f"terrazzo.commands.{verb}", "terrazzo.commands.lengths")
        for verb in ("find_batch", "find_lr", "replay", "start", "train")
    ),
    ("terrazzo.commands.start", "terrazzo.commands.machine"),
    *(
        ("terrazzo.commands.sweep", f"terrazzo.commands.{verb}")
        for verb in ("compare", "sweep_estimate", "sweep_search", "sweep_slurm", "sweep_tasks", "sweep_work")
    ),
    ("terrazzo.commands.sweep_tasks", "terrazzo.commands.sweep_work"),
    *(
        ("terrazzo.commands.sweep_search", f"terrazzo.commands.{verb}")
        for verb in ("evaluate", "search_cost", "sweep_tasks")
    ),
    *(("terrazzo.commands.sweep_work", f"terrazzo.commands.{verb}") for verb in ("sweep_score", "train")),
    *(("terrazzo.commands.sweep_score", f"terrazzo.commands.{verb}") for verb in ("evaluate", "lengths", "start")),
    *(
        ("terrazzo.commands.sweep_estimate", f"terrazzo.commands.{verb}")
        for verb in ("evaluate", "lengths", "start", "train")
    ),
    ("terrazzo.commands.train", "terrazzo.commands.tracking"),
    ("terrazzo.commands.tracking", "terrazzo.commands.evaluate"),
    ("terrazzo.commands.tracking", "terrazzo.commands.start"),
    ("terrazzo.commands.evaluate", "terrazzo.commands.score"),
    ("terrazzo.commands.report", "terrazzo.commands.evaluate"),
    ("terrazzo.commands.compare", "terrazzo.commands.evaluate"),
    ("terrazzo.commands.compare", "terrazzo.commands.report"),
}
"""Files of `commands/` are siblings too: the verbs that are made of other verbs."""

NO_TORCH = (
    *("terrazzo.base", "terrazzo.files", "terrazzo.data", "terrazzo.check", "terrazzo.discover", "terrazzo.prepare"),
    *("terrazzo.track", "terrazzo.terminal", "terrazzo.cli"),
)
TORCH_ALLOWED = ("terrazzo.data.loader",)


def name_of(path: Path, root: Path) -> str:
    return ".".join(["terrazzo", *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")


def modules(root: Path) -> dict[str, Path]:
    return {name_of(path, root): path for path in sorted(root.rglob("*.py"))}


def imports(path: Path, me: str, known: set[str]) -> set[str]:
    """Modules of ours that a file imports, in whatever way it is written, inside functions too."""
    found: set[str] = set()
    package = me if path.name == "__init__.py" else me.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, *([base] if base else [])])
            below = {f"{base}.{alias.name}" for alias in node.names} & known
            found |= below or {base}
            if any(f"{base}.{alias.name}" not in known for alias in node.names):
                found.add(base)
    return found


def room(module: str) -> tuple[int, str] | None:
    for level, rooms in enumerate(FLOORS):
        for entry in rooms:
            if module == entry or module.startswith(entry + "."):
                return level, entry
    return None


def faults(root: Path) -> list[str]:
    known = set(modules(root))
    bad = []
    for me, path in modules(root).items():
        if me == "terrazzo":
            continue
        mine = room(me)
        if mine is None:
            bad.append(f"{me} has no floor")
            continue
        for other in sorted(i for i in imports(path, me, known) if i == "terrazzo" or i.startswith("terrazzo.")):
            theirs = room(other)
            if other == "terrazzo":
                if any(n != "__version__" for n in from_root(path)):
                    bad.append(f"{me} imports a public name from terrazzo itself")
            elif theirs is None:
                bad.append(f"{me} imports {other}, which has no floor")
            elif theirs[0] > mine[0]:
                bad.append(f"{me} -> {other} goes up")
            elif (theirs[0] == mine[0] and theirs[1] != mine[1]) or (
                mine[1] == theirs[1] == "terrazzo.commands" and other not in (me, mine[1]) and (me, other) not in WITHIN
            ):
                bad.append(f"{me} -> {other} are siblings")
            elif mine[1] == other and me != other and is_package(root, other):
                bad.append(f"{me} imports its own package's __init__ back")
    return bad


def is_package(root: Path, module: str) -> bool:
    return (root / Path(*module.split(".")[1:]) / "__init__.py").exists()


def from_root(path: Path) -> set[str]:
    """Names taken by `from terrazzo import x` that are no modules; `import terrazzo` counts as a name too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "terrazzo" and not node.level:
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.Import) and any(alias.name == "terrazzo" for alias in node.names):
            names.add("terrazzo")
    return {n for n in names if not (path.parents[0] / n).exists()} - module_names()


def module_names() -> set[str]:
    return {path.stem for path in SOURCE.glob("*.py")} | {path.name for path in SOURCE.iterdir() if path.is_dir()}


def test_imports_run_one_way() -> None:
    assert faults(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("metrics.py", "from terrazzo import config", "goes up"),
        ("metrics.py", "import terrazzo.config", "goes up"),
        ("metrics.py", "from .config import x", "goes up"),
        ("metrics.py", "def f():\n    from terrazzo.config import x", "goes up"),
        ("metrics.py", "from terrazzo.optim import x", "are siblings"),
        ("metrics.py", "from terrazzo import train", "public name"),
        ("engine/step.py", "from terrazzo.infer.draw import x", "are siblings"),
        ("commands/predict.py", "from terrazzo.commands.train import x", "are siblings"),
        ("models/unet.py", "from terrazzo.models import x", "__init__ back"),
        ("unheard_of.py", "", "has no floor"),
        ("metrics.py", "from terrazzo.unheard_of import x", "has no floor"),
    ],
)
def test_the_check_sees_every_way_to_break_it(tmp_path: Path, file: str, line: str, fault: str) -> None:
    for name in (
        "metrics",
        "config",
        "optim",
        "engine/step",
        "infer/draw",
        "commands/train",
        "models/unet",
        "models/__init__",
    ):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    if "unheard_of import" in line:
        (tmp_path / "unheard_of.py").touch()
    assert not [f for f in faults(tmp_path) if "unheard_of" not in f]
    (tmp_path / file).write_text(line)
    assert any(fault in f for f in faults(tmp_path))


def test_no_submodule_has_a_public_functions_name() -> None:
    """A module terrazzo/train.py would hide the function terrazzo.train once it is imported."""
    import terrazzo

    assert not set(terrazzo.__all__) & module_names()


def test_data_and_the_command_line_start_without_torch() -> None:
    heavy = {"torch", "torchvision", "timm", "segmentation_models_pytorch", "transformers", "matplotlib"}
    bad = []
    for me, path in modules(SOURCE).items():
        if me.startswith(NO_TORCH) and not me.startswith(TORCH_ALLOWED):
            top = [
                n
                for n in ast.parse(path.read_text(encoding="utf-8")).body
                if isinstance(n, ast.Import | ast.ImportFrom)
            ]
            names = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
            names |= {n.module or "" for n in top if isinstance(n, ast.ImportFrom)}
            bad += [f"{me} imports {name}" for name in names if name.split(".")[0] in heavy]
    assert not bad
