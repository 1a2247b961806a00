#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run a notebook of this folder from top to bottom without a browser, and keep it with its outputs.

python docs/notebooks/execute.py --out runs/fly.ipynb
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
TIMEOUT_S = 1800
"""For a cell; one may have to build a circuit."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 where a cell failed, 2 where nothing could be run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path, nargs="?", default=FOLDER / "fly.ipynb", help="default: fly.ipynb")
    parser.add_argument("--out", type=Path, help="where to keep it with its outputs (default: runs/NAME.ipynb)")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / options.notebook.name
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # the kernel's debugger warns of Python itself
    try:
        import ipykernel  # noqa: F401 (the kernel that runs the cells)
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
        from traitlets.config import Config
    except ModuleNotFoundError as missing:
        return refuse(f"the Python package {missing.name} is missing; `pip install '.[host,hw,train,notebook]'`")
    try:
        notebook = nbformat.read(options.notebook, as_version=4)
        out.parent.mkdir(parents=True, exist_ok=True)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError):
        return refuse(f"{options.notebook} is no notebook")
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}; name a notebook, and with --out a file that can be written")
    failed = ""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("IPYTHONDIR", folder)
        # no port that others on this machine could listen to
        sockets = {"transport": "ipc", "ip": str(Path(folder) / "kernel")}
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(ROOT)}},
            config=Config(KernelManager=sockets),
        )
        try:
            client.execute()
        except CellExecutionError as error:
            failed = f"{error.ename}: {error.evalue}"
    nbformat.write(notebook, out)
    print(f"{out}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells run" if not failed else out)
    if failed:
        print(f"error: a cell of {options.notebook.name} failed with {failed}; {out} shows where", file=sys.stderr)
    return int(bool(failed))


def refuse(sentence: str) -> int:
    """Print why nothing was run; return the exit code."""
    print(f"error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
