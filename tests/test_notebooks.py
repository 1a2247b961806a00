# SPDX-License-Identifier: MIT
"""The notebooks run from top to bottom without a warning, and are kept without outputs."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "notebooks"
SCRIPT = FOLDER / "execute.py"


def execute(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the script as a user would, in a process of its own: a kernel's threads and sockets are none of pytest's."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TERM": "dumb"})


def printed(notebook: nbformat.NotebookNode, stream: str) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == stream)


@pytest.mark.parametrize(
    ("name", "pictures", "says"),
    [
        ("fly", 5, ["180 action words equal the golden network's, 0 differ"]),
        (
            "board",
            1,
            [
                "deciding on the verilated device, NOT on a board",
                "120 action words equal the golden network's, 0 differ",
                "microseconds: p50 / p99 / max",
                "no power sensor on the verilated device, NOT on a board",
            ],
        ),
    ],
)
def test_a_notebook_runs_from_top_to_bottom_without_a_warning(
    name: str, pictures: int, says: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPIKELOOP_DEVICE", raising=False)
    done = execute(FOLDER / f"{name}.ipynb", "--out", tmp_path / "new" / "out.ipynb")
    assert (done.returncode, done.stderr) == (0, "")
    notebook = nbformat.read(tmp_path / "new" / "out.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert done.stdout == f"{tmp_path / 'new' / 'out.ipynb'}: {len(cells)} cells run\n"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert printed(notebook, "stderr") == ""
    for sentence in says:
        assert sentence in printed(notebook, "stdout")
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) == pictures


def test_notebooks_are_kept_without_outputs() -> None:
    paths = list(FOLDER.glob("*.ipynb"))
    assert paths
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [(cell.execution_count, cell.outputs) for cell in cells] == [(None, [])] * len(cells)
        assert path.stat().st_size < 50_000


def test_a_cell_that_fails_is_named_and_kept(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell("print('before')"), nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "odd.ipynb")
    done = execute(tmp_path / "odd.ipynb", "--out", tmp_path / "done.ipynb")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: a cell of odd.ipynb failed with ZeroDivisionError: division by zero; {tmp_path / 'done.ipynb'} shows "
        "where\n"
    )
    assert printed(nbformat.read(tmp_path / "done.ipynb", as_version=4), "stdout") == "before\n"


@pytest.mark.parametrize("package", ["nbclient", "nbformat", "ipykernel"])
def test_a_missing_package_is_one_sentence(package: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert runpy.run_path(str(SCRIPT))["main"]([]) == 2
    assert capsys.readouterr().err == (
        f"error: the Python package {package} is missing; `pip install '.[host,hw,train,notebook]'`\n"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No such file or directory; name a notebook"),
        ("# no notebook", "is no notebook"),
        ("{}", "is no notebook"),
    ],
)
def test_what_is_no_notebook(content: str | None, sentence: str, tmp_path: Path, capsys) -> None:
    if content is not None:
        (tmp_path / "odd.ipynb").write_text(content)
    assert runpy.run_path(str(SCRIPT))["main"]([str(tmp_path / "odd.ipynb"), "--out", str(tmp_path / "a.ipynb")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'odd.ipynb'}")
    assert sentence in error
    assert error.count("\n") == 1
