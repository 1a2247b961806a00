# SPDX-License-Identifier: MIT
"""Films: which frames they hold, and from where they are taken. Nothing is rendered here: a test needs no screen."""

from pathlib import Path

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from gymnasium.spaces import Box
from PIL import Image

from host.video import Gif, Video, VideoError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium", "ignore::DeprecationWarning:mujoco")

SIZE = (48, 64)


class Painted(gymnasium.Env):
    """An environment whose pictures tell how often it was looked at: so many rows of black on white."""

    metadata = {"render_fps": 125}

    def __init__(self):
        self.observation_space = self.action_space = Box(-1, 1, (1,))
        self.seen = 0

    def render(self):
        self.seen += 1
        if self.seen > 22:
            raise RuntimeError("the canvas is full")
        picture = np.full((*SIZE, 3), 255, np.uint8)
        picture[: 2 * self.seen] = 0
        return picture


def film(kind: type[Video | Gif], path: Path, steps: int) -> None:
    made = kind(path, Painted())
    for _ in range(steps):
        made.frame()
    made.close()


def test_a_gif_holds_every_tenth_frame_at_half_the_size(tmp_path: Path) -> None:
    film(Gif, tmp_path / "episode.gif", 42)
    with Image.open(tmp_path / "episode.gif") as shown:
        assert shown.n_frames == 5
        assert shown.info["loop"] == 0
        for number in range(5):
            shown.seek(number)
            assert shown.info["duration"] == 80
            expected = np.full((24, 32, 3), 255)
            expected[: number + 1] = 0
            np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), expected)


def test_an_mp4_holds_every_frame(tmp_path: Path) -> None:
    film(Video, tmp_path / "episode.mp4", 21)
    count, seconds = imageio_ffmpeg.count_frames_and_secs(tmp_path / "episode.mp4")
    assert count == 21
    assert seconds == pytest.approx(21 / 125, abs=0.01)


@pytest.mark.parametrize(("kind", "steps"), [(Video, 23), (Gif, 221)])
def test_a_frame_that_cannot_be_rendered_is_a_sentence(kind: type[Video | Gif], steps: int, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"^no video: rendering failed \(the canvas is full\); install libegl1"):
        film(kind, tmp_path / "episode.mp4", steps)


def test_a_film_of_nothing_is_no_file(tmp_path: Path) -> None:
    film(Gif, tmp_path / "episode.gif", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [Video, Gif])
def test_the_camera_goes_along_where_the_model_has_one(
    kind: type[Video | Gif], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    hopper = gymnasium.make("Hopper-v5", render_mode="rgb_array")
    renderer = hopper.unwrapped.mujoco_renderer
    kind(tmp_path / "hopper.mp4", hopper).close()
    assert renderer.camera_id == hopper.unwrapped.model.camera("track").id >= 0
    pendulum = gymnasium.make("InvertedPendulum-v5", render_mode="rgb_array")
    usual = pendulum.unwrapped.mujoco_renderer.camera_id
    kind(tmp_path / "pendulum.mp4", pendulum).close()
    assert pendulum.unwrapped.mujoco_renderer.camera_id == usual
    for made in (hopper, pendulum):
        made.close()
