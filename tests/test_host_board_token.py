# SPDX-License-Identifier: MIT
"""The board server's token and address, and its command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from host.board import messages
from host.board.messages import ProtocolError
from host.board.server import BoardServer
from tests.served import TOKEN

ROOT = Path(__file__).resolve().parent.parent


# Tokens and addresses


def test_no_token_no_service(tmp_path, monkeypatch):
    monkeypatch.delenv(messages.TOKEN_VARIABLE, raising=False)
    with pytest.raises(ProtocolError, match="a shared token is needed"):
        messages.read_token(None)
    monkeypatch.setenv(messages.TOKEN_VARIABLE, "short")
    with pytest.raises(ProtocolError, match="has 5 characters"):
        messages.read_token(None)
    monkeypatch.setenv(messages.TOKEN_VARIABLE, TOKEN.decode())
    assert messages.read_token(None) == TOKEN
    file = tmp_path / "token"
    with pytest.raises(ProtocolError, match="cannot be read"):
        messages.read_token(file)
    file.write_text(f"{TOKEN.decode()}\n")
    file.chmod(0o644)
    with pytest.raises(ProtocolError, match="chmod 600"):
        messages.read_token(file)
    file.chmod(0o600)
    assert messages.read_token(file) == TOKEN
    with pytest.raises(ProtocolError, match="at least 16"):
        BoardServer(None, b"", ("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("pynq-z2.local", ("pynq-z2.local", messages.PORT)),
        ("10.0.0.2:99", ("10.0.0.2", 99)),
        ("[fe80::1]:99", ("fe80::1", 99)),
        ("fe80::1", ("fe80::1", messages.PORT)),
    ],
)
def test_addresses(text, address):
    assert messages.parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":99", "board:", "board:http", "board:0", "board:70000", "[fe80::1]99"])
def test_what_is_no_address(text):
    with pytest.raises(ProtocolError, match="is no address"):
        messages.parse_address(text)


# The command


def test_the_server_needs_numpy_and_nothing_else(tmp_path):
    """With every other installed package out of reach: PYNQ-Z2's Python has hardly any."""
    program = (
        "import sys, importlib.abc\n"
        "class Only(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        if top not in {*sys.stdlib_module_names, 'numpy', 'host', 'hw', 'model'}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Only())\n"
        "import host.board_server, host.board.pynq_bus\n"
        "sys.exit(host.board_server.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "--listen", "127.0.0.1:1"]
    environment = {k: v for k, v in os.environ.items() if k != messages.TOKEN_VARIABLE}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("board_server: a shared token is needed")
    environment[messages.TOKEN_VARIABLE] = TOKEN.decode()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stderr == (
        "board_server: this machine is no Zynq, so it has no circuit of its own; name the board with --board HOST, or "
        "use --device verilated\n"
    )
