"""The page: what is on it, where, and that it survives whatever the stack delivers."""

from __future__ import annotations

import dataclasses
import time

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import PlanStatus
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.view import canvas
from sparseoccvla_ros.view.scene_picture import MARGIN, WIDTH, page_layout, save_png, scene_picture


def overlap(first, second) -> bool:
    return (
        first.x < second.x + second.width
        and second.x < first.x + first.width
        and first.y < second.y + second.height
        and second.y < first.y + first.height
    )


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_layout_has_no_overlap_and_fills_the_page(labelled, trained):
    layout = page_layout(430, labelled, trained)
    single = [layout.header, layout.banner, layout.cameras, layout.above, layout.labels, layout.behind]
    places = [p for p in (*single, *layout.forecasts, layout.legend, layout.notes) if p is not None]
    for i, place in enumerate(places):
        assert place.x >= MARGIN
        assert place.x + place.width <= WIDTH - MARGIN
        assert place.y + place.height <= layout.height
        assert min(place.width, place.height) > 40
        assert not any(overlap(place, other) for other in places[i + 1 :])


def test_same_input_same_pixels_and_size(make_frames, make_plan, voxels):
    arguments = (make_frames(), voxels, make_plan(), (voxels,) * 3, voxels, {"answer": "turn left " * 30}, False)
    first, second = scene_picture(*arguments), scene_picture(*arguments)
    layout = page_layout(first.shape[0] - page_layout(0, True, False).height, True, False)
    assert first.dtype == np.uint8
    assert first.shape == (layout.height, WIDTH, 3)
    np.testing.assert_array_equal(first, second)


def test_a_page_takes_well_under_its_budget(make_frames, make_plan, voxels):
    """1.5 s is the promise; a dense scene of 80 000 voxels is more than any preset puts out."""
    rng = np.random.default_rng(0)
    semantics = np.full((200, 200, 16), 17, np.uint8)
    semantics[:, :, :2] = 11
    semantics[rng.random(semantics.shape) < 0.01] = 4
    scene = SparseVoxels.from_dense(semantics)
    scene_picture(make_frames(), voxels, make_plan(), (voxels,) * 3)
    start = time.process_time()
    scene_picture(make_frames(), scene, make_plan(), (scene,) * 3)
    assert time.process_time() - start < 1.5


def test_banner_only_when_untrained(make_frames, make_plan, voxels):
    pages = {t: scene_picture(make_frames(), voxels, make_plan(), trained=t) for t in (False, True)}
    layout = page_layout(0, False, False)
    amber = (np.abs(layout.banner.of(pages[False]).astype(int) - (255, 190, 30)).max(axis=-1) < 8).mean()
    assert amber > 0.4
    everywhere = (np.abs(pages[True].astype(int) - (255, 190, 30)).max(axis=-1) < 8).mean()
    assert everywhere < 0.001
    assert pages[False].shape[0] > pages[True].shape[0]


def test_the_plan_changes_only_forward_images(make_frames, make_plan, voxels):
    """Path pixels in the camera block lie in the front row; rear images stay as they are."""
    frames = make_frames()
    with_plan = scene_picture(frames, voxels, make_plan(), trained=True)
    without = scene_picture(frames, voxels, None, trained=True)
    block = page_layout(with_plan.shape[0] - page_layout(0, False, True).height, False, True).cameras
    changed = (block.of(with_plan) != block.of(without)).any(axis=-1)
    half = changed.shape[0] // 2
    assert changed[:half].mean() > 0.005
    assert not changed[half + 4 :].any()


def test_survives_nothing_at_all(make_frames, make_plan):
    nothing = SparseVoxels.empty()
    frames = make_frames(names=("CAM_FRONT",), size=(16, 16))
    for plan in (None, make_plan(PlanStatus.REJECTED, candidates=0), make_plan(PlanStatus.REJECTED, empty=True)):
        page = scene_picture(frames, nothing, plan, (), nothing, {})
        assert page.std() > 5


def test_missing_cameras_are_marked(make_frames, voxels):
    whole = scene_picture(make_frames(), voxels, None, trained=True)
    broken = scene_picture(make_frames(missing=("CAM_BACK_LEFT",)), voxels, None, trained=True)
    block = page_layout(whole.shape[0] - page_layout(0, False, True).height, False, True).cameras
    changed = (block.of(whole) != block.of(broken)).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert rows.min() >= changed.shape[0] // 2 - 4
    assert columns.max() <= changed.shape[1] // 3
    red = np.abs(block.of(broken).astype(int) - canvas.BAD).max(axis=-1) < 30
    assert red.sum() > 200


def test_wrong_number_of_forecasts_is_refused(make_frames, voxels):
    with pytest.raises(InvalidInput, match="forecasts"):
        scene_picture(make_frames(), voxels, None, (voxels,))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    notes=st.dictionaries(st.text(max_size=60), st.text(max_size=600), max_size=12),
    size=st.tuples(st.integers(1, 300), st.integers(1, 500)),
)
def test_any_note_and_any_image_size(make_frames, make_plan, notes, size):
    """Text from a language model or a topic, and images of any shape, never break the page nor leave its width."""
    page = scene_picture(make_frames(size=size), SparseVoxels.empty(), make_plan(), (), None, notes, True)
    assert page.shape[1] == WIDTH


def test_wild_plans_are_drawn_in_bounded_time(make_frames, make_plan, voxels):
    wild = np.array([(1e6, -1e6), (-1e6, 1e6), (0, 0), (3e4, 0), (1, 1), (-1e5, 4)], np.float32)
    plan = dataclasses.replace(make_plan(), waypoints=wild)
    start = time.process_time()
    scene_picture(make_frames(), voxels, plan, trained=True)
    assert time.process_time() - start < 3


def test_png_round_trip(tmp_path, make_frames, voxels):
    page = scene_picture(make_frames(), voxels, None)
    path = save_png(tmp_path / "deep" / "page.png", page)
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], page)
    assert [p.name for p in path.parent.iterdir()] == ["page.png"]


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), "picture"])
def test_png_refuses_what_is_no_image(tmp_path, wrong):
    with pytest.raises(InvalidInput):
        save_png(tmp_path / "page.png", wrong)


def test_text_fits_its_place():
    long = "a sentence that goes on " * 40
    assert canvas.text_width(canvas.fitted(long, 300, 15), 15) <= 300
    lines = canvas.wrapped(long, 300, 15, 3)
    assert len(lines) == 3
    assert all(canvas.text_width(line, 15) <= 300 for line in lines)
    assert lines[-1].endswith("...")
    assert canvas.printable("a\x00b\n\x1b[31mc") == "a b [31mc"


def test_text_without_the_typeface_of_opencv_5(monkeypatch):
    """Ubuntu's own OpenCV 4 has no TrueType face: Pillow writes then."""
    monkeypatch.setattr(canvas, "_typeface", lambda: None)
    canvas.text_width.cache_clear()
    image = canvas.blank(300, 60)
    before = image.copy()
    width = canvas.draw_text(image, "occupancy — 12 m", (10, 40), 20)
    canvas.text_width.cache_clear()
    columns = np.flatnonzero((image != before).any(axis=(0, 2)))
    assert 10 <= columns.min() < 16
    assert abs(columns.max() - (10 + width)) < 6
