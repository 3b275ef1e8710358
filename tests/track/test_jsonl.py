"""Every step stands in metrics.jsonl once, however often the run was killed."""

from pathlib import Path

from terrazzo.track.jsonl import Jsonl, read_lines, write_csv


def test_cutting_forgets_later_steps_and_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = Jsonl(path)
    for step in (10, 20, 30):
        tracker.log(step, {"train/loss": 1 / step})
    with path.open("a") as file:
        file.write('{"step": 40, "train/l')
    assert [line["step"] for line in read_lines(path)] == [10, 20, 30]
    tracker.cut(20)
    tracker.log(30, {"train/loss": 0.5})
    assert [line["step"] for line in read_lines(path)] == [10, 20, 30]
    assert read_lines(path)[-1]["train/loss"] == 0.5
    assert path.read_text().endswith("}\n")


def test_the_csv_has_all_columns_and_empty_cells(tmp_path: Path) -> None:
    write_csv([{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": 1.0, "val/miou": 0.5}], tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text() == "step,train/loss,val/miou\n1,2.0,\n2,1.0,0.5\n"


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == []
