# SPDX-License-Identifier: MIT
"""Print the project's dependencies with the named extras, a requirement a line: `requirements.py host hw`."""

import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]
lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in sys.argv[1:])]
sys.stdout.write("".join(f"{line}\n" for line in dict.fromkeys(line for lines in lists for line in lines)))
