"""What `terrazzo sweep` shows: the runs that are planned, how far they are, and how they ended."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, RenderableType

    from terrazzo.commands.sweep import Prepared
    from terrazzo.commands.sweep_estimate import Estimate
    from terrazzo.launch.state import RunState
    from terrazzo.sweep.search import SearchConfig

SHOWN = 40
"""Rows of a table of many runs; the rest is counted."""

BEST = 10
"""Trials of a search that are shown."""

ORDER = ("running", "failed", "stopped", "queued", "waiting", "refused", "pruned", "finished")
"""What deserves a row first."""

COLORS = {"running": "cyan", "failed": "bold red", "stopped": "yellow", "finished": "green", "refused": "magenta"}


class SweepScreen(AbstractContextManager["SweepScreen"]):
    """The states of a sweep's runs: a table that is kept up to date on a terminal, a line for each change elsewhere."""

    def __init__(self, before: "Mapping[str, RunState] | None" = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.before: dict[str, str] = {name: state.status for name, state in (before or {}).items()}

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, states: "Mapping[str, RunState]") -> None:
        if self.live is not None:
            self.live.update(states_table(states, limit=max(5, self.console.height - 8)), refresh=True)
            return
        over = sum(state.status in ("finished", "pruned", "refused", "failed") for state in states.values())
        for name, state in states.items():
            if state.status != self.before.get(name, "waiting"):
                reason = f": {state.reason}" if state.reason else ""
                line = f"[{over}/{len(states)}] {name} {state.status}, step {state.step}{reason}"
                self.console.print(line, markup=False)
        self.before = {name: state.status for name, state in states.items()}


def states_table(states: "Mapping[str, RunState]", *, limit: int = SHOWN) -> "RenderableType":
    """The runs, those first that somebody should look at, and how many there are of each kind."""
    from rich.console import Group
    from rich.table import Column, Table
    from rich.text import Text

    name = Column("run", no_wrap=True)
    table = Table(name, "status", "step", "time", "starts", "seen", "", box=None)
    rows = sorted(states.values(), key=lambda state: (ORDER.index(state.status), state.name))
    for state in rows[:limit]:
        table.add_row(
            Text(state.name),
            Text(state.status, style=COLORS.get(state.status, "")),
            str(state.step),
            duration(state.seconds) if state.attempts else "",
            str(state.attempts or ""),
            f"{duration(max(0.0, time.time() - state.changed))} ago" if state.status == "running" else "",
            Text(state.reason or state.where or ""),
        )
    return Group(table, Text(counted(states, hidden=len(rows) - len(rows[:limit]))))


def counted(states: "Mapping[str, RunState]", *, hidden: int = 0) -> str:
    """ "576 runs: 3 running, 573 waiting"."""
    counts: Counter[str] = Counter(state.status for state in states.values())
    parts = [f"{counts[status]} {status}" for status in reversed(ORDER) if counts[status]]
    more = f" ({hidden} not shown)" if hidden > 0 else ""
    return f"{len(states)} run{'s' * (len(states) != 1)}: {', '.join(parts) or 'none'}{more}"


def print_states(states: "Mapping[str, RunState]", *, limit: int = SHOWN) -> None:
    _console().print(states_table(states, limit=limit))


def print_plan(prepared: "Prepared", costs: "Mapping[str, Estimate]", at_once: int) -> None:
    """The table of a dry run; what all of it takes stands below."""
    from rich.table import Column, Table
    from rich.text import Text

    console = _console()
    table = Table(Column("run", no_wrap=True), "status", "after", "steps", "time", "disk", box=None)
    shown = prepared.runs if len(prepared.runs) <= SHOWN else prepared.runs[: SHOWN // 2]
    for run in shown:
        cost, state = costs.get(run.name), prepared.states[run.name]
        figures = ("-", "-", "-")
        if cost is not None and cost.seconds is not None and cost.bytes is not None:
            figures = (str(cost.steps), duration(cost.seconds), size(cost.bytes))
        table.add_row(Text(run.name), state.status, Text(", ".join(run.after)), *figures)
    console.print(table)
    if len(shown) < len(prepared.runs):
        console.print(f"... and {len(prepared.runs) - len(shown)} more")
    _print_facts(console, prepared, costs, at_once)


def print_search(tree: "dict[str, Any]", folder: "Path") -> None:
    """The best trials of a search, from its trials.json, and where all of them are."""
    from rich.table import Table
    from rich.text import Text

    trials = {trial["number"]: trial for trial in tree["trials"]}
    axes = list(dict.fromkeys(name for trial in trials.values() for name in trial["values"]))
    table = Table("trial", tree["objective"], *axes, "best ahead by", box=None, title_justify="left")
    for place, number in enumerate(tree["ranking"][:BEST]):
        trial = trials[number]
        worth = f"{trial['value']:.4f}" + ("" if trial["sd"] is None else f" ± {trial['sd']:.4f}")
        ahead = (
            f"{trial['behind']:.4f} ({trial['behind_low']:.4f} to {trial['behind_high']:.4f})" if "p" in trial else ""
        )
        values = (trial["values"].get(name) for name in axes)
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(str(number), worth, *map(Text, cells), "" if place == 0 else ahead)
    console = _console()
    counts = Counter(trial["status"] for trial in trials.values())
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(f"{len(trials)} trial{'s' * (len(trials) != 1)}: {by_status}")
    if tree["ranking"]:
        console.print(table)
    if any("p" in trial for trial in trials.values()):
        console.print("best ahead by: mean difference of the images' own mIoU, with its 95 % interval over images")
    if tree["importances"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in tree["importances"].items())
        console.print(Text(f"share of each axis in the differences: {shares}"))
    console.print(Text(f"all trials: {folder / 'trials.csv'}; curves: optuna-dashboard {tree['storage']}"))


def search_line(search: "SearchConfig", seeds: "Sequence[int]") -> str:
    """What a search will do, in a line for each axis."""
    from terrazzo.sweep.space import said

    repeated = f", each with seeds {', '.join(map(str, seeds))}" if seeds else ""
    best = "most" if search.maximize else "least"
    lines = [f"search ({search.kind}): {search.trials} trials{repeated}, for the {best} {search.objective}"]
    lines += [f"  {name}: {said(axis)}" for name, axis in search.space.items()]
    return "\n".join(lines)


def _print_facts(console: "Console", prepared: "Prepared", costs: "Mapping[str, Estimate]", at_once: int) -> None:
    console.print(counted(prepared.states), markup=False)
    for name, state in prepared.states.items():
        if state.status == "refused":
            console.print(f"refused: {name}: {state.reason}", markup=False)
    for reason in sorted({cost.why_not for cost in costs.values() if cost.why_not}):
        count = sum(cost.why_not == reason for cost in costs.values())
        console.print(f"no figures for {count} runs: {reason}", markup=False)
    seconds = sum(cost.seconds for cost in costs.values() if cost.seconds is not None)
    whole = sum(cost.bytes for cost in costs.values() if cost.bytes is not None)
    if whole:
        console.print(
            f"to train: at most {duration(seconds)} one after the other, {duration(seconds / at_once)} with {at_once} "
            f"at once, as a few steps here took; checkpoints {size(whole)}"
        )


def _console() -> "Console":
    """As wide as the terminal; for a file, as wide as a name and a reason are long."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=220)


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3.4 h" or "2.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Bytes as MiB or GiB."""
    return f"{count / 2**20:.0f} MiB" if count < 10 * 2**30 else f"{count / 2**30:.1f} GiB"
