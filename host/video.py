# SPDX-License-Identifier: MIT
"""A film of the episodes, rendered off screen."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
from PIL import Image

PROBE = "import mujoco; mujoco.GLContext(16, 16).make_current()"

BACKENDS = ("egl", "osmesa")
"""What MuJoCo can render with when there is no screen."""

GIF_FPS, GIF_COLOURS = 12.5, 48


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
        self._environment = environment
        _go_along(environment)
        fps = environment.metadata.get("render_fps", 30)
        self._writer = imageio.get_writer(path, fps=fps, macro_block_size=2)

    def frame(self) -> None:
        """Add what the environment looks like now."""
        with _filming():
            self._writer.append_data(self._environment.render())

    def close(self) -> None:
        """Complete the file."""
        self._writer.close()


class Gif:
    """A gif small enough for a page: about `GIF_FPS` frames a second, half as wide and high, `GIF_COLOURS` colours.

    Raises `VideoError` if a frame fails.
    """

    def __init__(self, path: Path, environment: gymnasium.Env[Any, Any]) -> None:
        self._path, self._environment = path, environment
        _go_along(environment)
        fps = environment.metadata.get("render_fps", 30)
        self._every = max(1, round(fps / GIF_FPS))
        self._frame_ms = 1000 * self._every / fps
        self._steps = 0
        self._frames: list[Image.Image] = []

    def frame(self) -> None:
        """Take a step in, and add what the environment looks like now if it is time for a frame."""
        self._steps += 1
        if (self._steps - 1) % self._every:
            return
        with _filming():
            # the first frame's colours, the rare ones too, undithered: what stands still then costs nothing
            small = Image.fromarray(self._environment.render()).reduce(2)
            palette = self._frames[0] if self._frames else small.quantize(GIF_COLOURS, Image.Quantize.MAXCOVERAGE)
            self._frames.append(small.quantize(palette=palette, dither=Image.Dither.NONE))

    def close(self) -> None:
        """Write the file, if there is a frame to write."""
        if self._frames:
            first, *rest = self._frames
            first.save(self._path, save_all=True, append_images=rest, duration=self._frame_ms, loop=0)


@contextlib.contextmanager
def _filming() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the renderer's and the encoder's errors have no common class
        raise VideoError(f"no video: rendering failed ({error}); install libegl1 and check MUJOCO_GL") from None


def _go_along(environment: gymnasium.Env[Any, Any]) -> None:
    """Film with the model's own camera that follows the robot, where there is one.

    Gymnasium 1.4.0 leaves its camera where the episode began, and most robots run out of the picture.
    """
    model, renderer = (getattr(environment.unwrapped, name, None) for name in ("model", "mujoco_renderer"))
    if renderer is not None and model is not None:
        with contextlib.suppress(KeyError):
            renderer.camera_id = model.camera("track").id
