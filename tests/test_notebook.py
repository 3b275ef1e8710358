"""The tutorial notebook: every cell runs, and it is stored without what the cells answered."""

import base64
from io import BytesIO
from pathlib import Path

import nbformat
import PIL.Image
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs/tutorial/pets.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """Run by a Jupyter kernel of this Python, as if opened in a copy of the repository."""
    home = tmp_path_factory.mktemp("home")
    (home / "examples").symlink_to(ROOT / "examples")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):  # nothing is read or left at home
            patch.setenv(name, str(home / name.lower()))
        NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(home)}}
        ).execute()
    assert (home / "runs/tutorial/report.html").exists()
    return notebook


def shown(notebook: NotebookNode, cell_id: str) -> tuple[str, list[PIL.Image.Image]]:
    """What a cell printed, and its pictures."""
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    data = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return text, [PIL.Image.open(BytesIO(base64.b64decode(picture))) for picture in data]


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 5
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_every_cell_of_the_notebook_runs(executed: NotebookNode) -> None:
    assert "images torch.uint8 [8, 3, 64, 64] masks torch.uint8 [8, 64, 64]" in shown(executed, "batch")[0]
    for cell in ("batch", "curves", "predict", "probabilities", "overlay"):
        assert len(shown(executed, cell)[1]) == 1, cell


def test_a_prediction_shows_itself_in_the_notebook(executed: NotebookNode) -> None:
    text, (picture,) = shown(executed, "predict")
    with PIL.Image.open(ROOT / "examples/pets/images/Bengal_185.jpg") as photograph:
        assert f"mask uint8 {photograph.size[::-1]}" in text
        assert picture.width >= photograph.width
        assert picture.height > photograph.height, "a legend is below"
