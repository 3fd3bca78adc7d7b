"""What the cameras observe: against rays walked through the voxels, and against the pictures of the world."""

import time

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import FREE, LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import apply, camera_matrix, inverse, planar, project
from sparseoccvla_ros.core.voxels import OCC3D_GRID, VoxelGrid
from sparseoccvla_ros.world.kernels.solids import NO_HIT
from sparseoccvla_ros.world.labels.occupancy import dense_labels
from sparseoccvla_ros.world.labels.visibility import camera_visibility
from sparseoccvla_ros.world.render.camera_rig import load_rig
from sparseoccvla_ros.world.render.raster import PinholeRays, cast
from sparseoccvla_ros.world.shapes.solids import Kind, Part, Primitives

HEIGHT, WIDTH, CUT = 128, 352, 70
"""Images of the tiny preset: 198 rows of which the lower 128 are kept."""
TIME = 3.0
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
"""Optical frame 1.5 m above base_link's origin, looking along x."""


def cropped(camera):
    k = camera.scaled(HEIGHT + CUT, WIDTH)
    k[1, 2] -= CUT
    return k


def matrices():
    rig = load_rig("n015")
    return np.stack([cropped(c) for c in rig]), np.stack([c.camera2ego for c in rig])


@pytest.fixture(scope="module")
def seen(renderer):
    """Pictures, depths [6, H, W], labels and visibility of one moment of the world."""
    k, poses = matrices()
    ego = renderer.scene.ego.at(TIME)[0]
    pictures = [
        renderer.render(one, ego @ pose, HEIGHT, WIDTH, TIME, samples=1) for one, pose in zip(k, poses, strict=True)
    ]
    depths = np.stack([p.depth for p in pictures])
    return pictures, depths, dense_labels(renderer.scene, TIME, ego), camera_visibility(depths, k, poses)


def walk(depth, k, pose, grid, step=0.05):
    """Voxels bool [X, Y, Z] that the rays of all pixels pass before their depth, or end in."""
    height, width = depth.shape
    v, u = np.mgrid[:height, :width]
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], -1).reshape(-1, 3)
    rays, depth = rays @ pose[:3, :3].T, depth.reshape(-1)
    out = np.zeros(grid.shape, bool)
    reach = np.linalg.norm(np.array(grid.upper) - grid.lower) + np.abs(pose[:3, 3]).max()
    for at in (*np.arange(0.1, reach, step), depth + 1e-3):
        points = pose[:3, 3] + rays[at <= depth + 1e-3] * (at if np.isscalar(at) else at[:, None])
        index, inside = grid.index_of(points)
        out[tuple(index[inside].T)] = True
    return out


def test_agrees_with_a_walk_along_every_ray():
    """A box on the ground before a fine camera: the closed form against the walk, voxel by voxel."""
    grid = VoxelGrid((0.0, -4.0, -1.0), (12.8, 4.0, 2.2), 0.4)
    k = np.array([[240.0, 0, 159.5], [0, 240, 119.5], [0, 0, 1]])
    parts = [
        Part(Kind.BOX, (6.0, 0.5, 0.6), (1.0, 0.8, 0.6), (0.5, 0.5, 0.5), label=LABEL["car"]),
        Part(Kind.BOX, (6.0, 0.0, -0.5), (20.0, 20.0, 0.5), (0.5, 0.5, 0.5), label=LABEL["driveable_surface"]),
    ]
    depth, _ = cast(Primitives.of(parts, 0, 0.0), PinholeRays(k, FORWARD, 240, 320))
    depth = np.where(depth < NO_HIT, depth, np.inf).reshape(240, 320)
    true = walk(depth.astype(np.float64), k, FORWARD, grid)
    ours = camera_visibility(depth[None], k[None], FORWARD[None], grid)
    both, either = (true & ours).sum(), (true | ours).sum()
    assert 0.1 < true.mean() < 0.9
    assert both / either > 0.95, both / either
    # Behind the box, in its shadow, nothing; beside it the road.
    behind, _ = grid.index_of(np.array([[8.2, 0.6, 0.0], [8.2, 0.6, 0.8]]))
    beside, _ = grid.index_of(np.array([[8.2, -2.0, 0.0], [8.2, -2.0, 0.8]]))
    assert not ours[tuple(behind.T)].any()
    assert ours[tuple(beside.T)].all()


@pytest.mark.slow
def test_agrees_with_a_walk_through_the_world(renderer, seen):
    """Six small images of a street against their own rays at 3 x 3 per pixel."""
    _, _, dense, ours = seen
    k, poses = matrices()
    true = np.zeros(OCC3D_GRID.shape, bool)
    fine, ego = 3, renderer.scene.ego.at(TIME)[0]
    for one, pose in zip(k, poses, strict=True):
        scaled = one.copy()
        scaled[:2] *= fine
        scaled[:2, 2] += 0.5 * (fine - 1)
        depth = renderer.render(scaled, ego @ pose, fine * HEIGHT, fine * WIDTH, TIME, samples=1).depth
        true |= walk(depth.astype(np.float64), scaled, pose, OCC3D_GRID, step=0.2)
    occupied = dense < FREE
    both = (true & ours).sum() / (true | ours).sum()
    precision = (true & ours & occupied).sum() / (ours & occupied).sum()
    recall = (true & ours & occupied).sum() / (true & occupied).sum()
    print(f"observed: IoU {both:.3f}; occupied: precision {precision:.3f}, recall {recall:.3f}")
    assert both > 0.94
    assert precision > 0.90, "more rays find more: 16 a pixel give 0.96"
    assert recall > 0.90


def test_road_ahead_is_seen_and_what_vehicles_hide_is_not(renderer, seen):
    """Behind every vehicle of the scene, 0.6 m above the road and thus not under it, nothing is observed."""
    dense, ours = seen[2:]
    scene = renderer.scene
    map2ego = inverse(scene.ego.at(TIME)[0])
    hidden = []
    for item in scene.moving:
        plan = item.mover.rectangle(TIME)
        centre = apply(map2ego, np.array([plan[0], plan[1], 0.0]))[:2]
        distance = np.hypot(*centre)
        if item.shape.name in ("car", "truck", "bus") and 6 < distance < 30:
            behind = centre * (1 + (0.5 * np.hypot(plan[3], plan[4]) + 0.6) / distance)
            index, inside = OCC3D_GRID.index_of(np.array([*behind, 0.6]))
            hidden += [not ours[tuple(index)]] * bool(inside)
    print(f"{sum(hidden)} of {len(hidden)} places behind vehicles are hidden")
    assert len(hidden) >= 2
    assert all(hidden)
    ahead = ours[118:128, 97:104, 2][dense[118:128, 97:104, 2] == LABEL["driveable_surface"]]
    print(f"road from 7 to 11 m ahead: {ahead.mean():.3f} seen")
    assert ahead.mean() > 0.95


def test_seen_voxels_show_their_class_in_the_pictures(seen):
    """Occupied voxels that are observed project onto pixels of their class, or of a neighbour's at outlines."""
    pictures, _, dense, ours = seen
    k, poses = matrices()
    index = np.argwhere(ours & (dense < FREE))
    centres, labels = OCC3D_GRID.centre_of(index).astype(np.float64), dense[tuple(index.T)]
    exact, near = np.zeros(len(index), bool), np.zeros(len(index), bool)
    for picture, one, pose in zip(pictures, k, poses, strict=True):
        pixel, depth = project(camera_matrix(one, inverse(pose)), centres, near=0.2)
        u, v = np.round(np.nan_to_num(pixel, nan=-9e3)).astype(int).T
        reach = np.ceil(0.3 * one[0, 0] / np.maximum(depth, 1.0)).astype(int).clip(1, 40)
        for n in np.flatnonzero((u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)):
            exact[n] |= picture.label[v[n], u[n]] == labels[n]
            if not near[n]:
                r = reach[n]
                patch = picture.label[max(v[n] - r, 0) : v[n] + r + 1, max(u[n] - r, 0) : u[n] + r + 1]
                near[n] = (patch == labels[n]).any()
    print(f"class at the centre's pixel {exact.mean():.3f}, within the voxel's print {near.mean():.3f}")
    assert exact.mean() > 0.80
    assert near.mean() > 0.93


def test_crops_and_rotation_move_what_is_seen(seen):
    depths, ours = seen[1], seen[3]
    k, poses = matrices()
    # Cutting the lower half off an image and moving its principal point only takes voxels away.
    cut = k.copy()
    cut[:, 1, 2] -= 64
    lower = camera_visibility(depths[:, 64:], cut, poses)
    assert not (lower & ~ours).any()
    assert lower.sum() < ours.sum()
    # Cameras on a vehicle turned by half a turn see the grid turned by half a turn.
    turned = camera_visibility(depths, k, planar(0, 0, np.pi) @ poses)
    assert (turned[::-1, ::-1] == ours).mean() > 0.9995
    # Nothing is nearer than an empty sky, and no measurement sees nothing.
    sky = camera_visibility(np.full_like(depths, np.inf), k, poses)
    assert not (ours & ~sky).any()
    assert not camera_visibility(np.full_like(depths, np.nan), k, poses).any()


def test_takes_a_frame_in_milliseconds(seen):
    k, poses = matrices()
    depths = seen[1]
    spent = []
    for _ in range(5):
        begin = time.perf_counter()
        camera_visibility(depths, k, poses)
        spent.append(time.perf_counter() - begin)
    # 70 ms on an idle core; the bound leaves room for a busy machine.
    assert min(spent) < 0.25, spent


def test_names_what_is_wrong():
    depths, k, poses = np.ones((1, 4, 6), np.float32), np.eye(3)[None], np.eye(4)[None]
    with pytest.raises(InvalidInput, match="depths"):
        camera_visibility(depths[0], k, poses)
    with pytest.raises(InvalidInput, match="depths"):
        camera_visibility(depths.astype(np.int32), k, poses)
    with pytest.raises(InvalidInput, match="intrinsics"):
        camera_visibility(depths, k[0], poses)
    with pytest.raises(InvalidInput, match="camera2ego"):
        camera_visibility(depths, k, np.full((1, 4, 4), np.nan))
    with pytest.raises(InvalidInput, match="margin"):
        camera_visibility(depths, k, poses, margin=-0.1)
