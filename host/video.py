# SPDX-License-Identifier: MIT
"""A film of the episodes, rendered off screen."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio

PROBE = "import mujoco; mujoco.GLContext(16, 16).make_current()"

BACKENDS = ("egl", "osmesa")
"""What MuJoCo can render with when there is no screen."""


class VideoError(RuntimeError):
    """No film can be made; the message says why. The episode itself does not need one."""


def no_renderer() -> None:
    """Keep MuJoCo from looking for a renderer nobody asked for. Call before MuJoCo is imported."""
    os.environ["MUJOCO_GL"] = "disable"


def choose_renderer() -> None:
    """Set MUJOCO_GL to what works here. Call before MuJoCo is imported.

    Raises `VideoError` if nothing does; MuJoCo then works without a renderer.
    """
    chosen = os.environ.get("MUJOCO_GL")
    for backend in [chosen] if chosen else BACKENDS:
        environment = os.environ | {"MUJOCO_GL": backend}
        if subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True).returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return
    no_renderer()
    raise VideoError(
        f"no video: MuJoCo cannot render here with {chosen or ' or '.join(BACKENDS)}; "
        "install one of them (Debian, Ubuntu: `apt install libegl1 libosmesa6`)"
    )


class Video:
    """An mp4 file, a frame per step. Raises `VideoError` if the encoder or a frame fails."""

    def __init__(self, path: Path, environment: gymnasium.Env[Any, Any]) -> None:
        self.path = path
        self._environment = environment
        fps = environment.metadata.get("render_fps", 30)
        self._writer = imageio.get_writer(path, fps=fps, macro_block_size=2)

    def frame(self) -> None:
        """Add what the environment looks like now."""
        try:
            self._writer.append_data(self._environment.render())
        except Exception as error:  # the renderer's and the encoder's errors have no common class
            raise VideoError(f"no video: rendering failed ({error}); install libegl1 and check MUJOCO_GL") from None

    def close(self) -> None:
        """Complete the file."""
        self._writer.close()
