"""Pictures, classes, depth and occupancy describe the same world."""

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import FLAT, FREE, LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import apply, camera_matrix, inverse, planar, project
from sparseoccvla_ros.core.voxels import OCC3D_GRID, VoxelGrid
from sparseoccvla_ros.world.kernels.shading import sunlit
from sparseoccvla_ros.world.labels import occupancy
from sparseoccvla_ros.world.render.camera_rig import load_rig
from sparseoccvla_ros.world.render.raster import PinholeRays, cast
from sparseoccvla_ros.world.shapes.solids import Kind, Part, Primitives

HEIGHT, WIDTH = 99, 176
TIME = 3.0


@pytest.fixture(scope="module")
def rig():
    return {c.name: c for c in load_rig("n015")}


@pytest.fixture(scope="module")
def pictures(renderer, rig):
    pose = renderer.scene.ego.at(TIME)[0]
    return {
        n: renderer.render(c.scaled(HEIGHT, WIDTH), pose @ c.camera2ego, HEIGHT, WIDTH, TIME, samples=1)
        for n, c in rig.items()
    }


def pixels_of(camera, points):
    """Pixel columns and rows int [N], depths [N] and whether points [N, 3] in base_link fall into the picture."""
    ego2img = camera_matrix(camera.scaled(HEIGHT, WIDTH), inverse(camera.camera2ego))
    pixel, depth = project(ego2img, points, near=0.2)
    seen = np.isfinite(pixel).all(-1)
    u, v = np.round(np.where(seen[:, None], pixel, -9.0)).astype(int).T
    return u, v, depth, seen & (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)


def points_of(camera, picture):
    """Points float64 [H * W, 3] in base_link behind every pixel (NaN for the sky)."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    k = camera.scaled(HEIGHT, WIDTH)
    depth = np.where(np.isfinite(picture.depth), picture.depth, np.nan).astype(np.float64)
    x, y = (u - k[0, 2]) / k[0, 0] * depth, (v - k[1, 2]) / k[1, 1] * depth
    return apply(camera.camera2ego, np.stack([x, y, depth], -1).reshape(-1, 3))


def test_voxels_project_onto_pixels_of_their_class(renderer, rig, pictures):
    voxels = occupancy.sparse_labels(renderer.scene, TIME)
    centres = voxels.centres().astype(np.float64)
    agree = total = 0
    for name, picture in pictures.items():
        u, v, depth, inside = pixels_of(rig[name], centres)
        near = inside.copy()
        near[inside] = np.abs(picture.depth[v[inside], u[inside]] - depth[inside]) < 0.4
        same = picture.label[v[near], u[near]] == voxels.labels[near]
        assert near.sum() > 150, name
        assert same.mean() > 0.93, name
        agree, total = agree + same.sum(), total + near.sum()
    assert agree / total > 0.96


def test_what_is_seen_is_occupied(renderer, rig, pictures):
    dense = occupancy.dense_labels(renderer.scene, TIME, renderer.scene.ego.at(TIME)[0])
    for name, picture in pictures.items():
        points = points_of(rig[name], picture)
        index, inside = OCC3D_GRID.index_of(points)
        solid = inside & ~np.isin(picture.label.ravel(), (FREE, LABEL["vegetation"]))
        i, j, k = index[solid].T
        around = [
            dense[np.clip(i + a, 0, 199), np.clip(j + b, 0, 199), np.clip(k + c, 0, 15)]
            for a in (-1, 0, 1)
            for b in (-1, 0, 1)
            for c in (-1, 0, 1)
        ]
        found = (np.stack(around) == picture.label.ravel()[solid]).any(0)
        assert found.mean() > 0.97, name


def test_ground_lies_on_the_ground(rig, pictures):
    for name, picture in pictures.items():
        flat = np.isin(picture.label.ravel(), FLAT)
        assert flat.mean() > 0.1, name
        height = points_of(rig[name], picture)[flat, 2]
        reach = picture.depth.ravel()[flat]
        assert np.abs(height[reach < 60]).max() < 0.01


def test_neighbouring_cameras_see_the_same_things(rig, pictures):
    for one, two in (("CAM_FRONT", "CAM_FRONT_LEFT"), ("CAM_FRONT", "CAM_FRONT_RIGHT"), ("CAM_BACK", "CAM_BACK_LEFT")):
        points = points_of(rig[one], pictures[one])
        u, v, depth, inside = pixels_of(rig[two], points)
        other = pictures[two]
        near = inside.copy()
        near[inside] = np.abs(other.depth[v[inside], u[inside]] / depth[inside] - 1) < 0.03
        assert near.sum() > 100, (one, two)
        same = other.label[v[near], u[near]] == pictures[one].label.ravel()[near]
        assert same.mean() > 0.95, (one, two)


def test_six_views_look_like_a_street(pictures):
    for name, picture in pictures.items():
        assert picture.rgb.dtype == np.uint8
        assert picture.rgb.shape == (HEIGHT, WIDTH, 3)
        assert picture.rgb.std() > 20, name
        assert (picture.label[-4:] != FREE).mean() > 0.9, "the lowest rows show the ground or something on it"
        assert (np.isfinite(picture.depth) == (picture.label != FREE)).all()
    assert any((p.label[: HEIGHT // 3] == FREE).mean() > 0.3 for p in pictures.values())


def test_more_rays_smooth_edges_and_keep_the_picture(renderer, rig, pictures):
    camera, pose = rig["CAM_FRONT"], renderer.scene.ego.at(TIME)[0]
    k = camera.scaled(HEIGHT, WIDTH)
    fine = renderer.render(k, pose @ camera.camera2ego, HEIGHT, WIDTH, TIME, samples=3)
    plain = pictures["CAM_FRONT"]
    # With an odd count the middle ray is the pixel's centre.
    assert (fine.label == plain.label).mean() > 0.999
    difference = np.abs(fine.rgb.astype(int) - plain.rgb)
    assert difference.mean() < 8
    assert fine.rgb.astype(int).mean() == pytest.approx(plain.rgb.mean(), abs=2)
    with pytest.raises(InvalidInput, match="view"):
        renderer.render(k, pose @ camera.camera2ego, HEIGHT, WIDTH, TIME, samples=0)


def test_rendering_repeats_exactly(renderer, rig, pictures):
    camera, pose = rig["CAM_BACK"], renderer.scene.ego.at(TIME)[0]
    other = renderer.render(camera.scaled(20, 30), pose @ camera.camera2ego, 20, 30, 9.0, samples=1)
    again = renderer.render(camera.scaled(HEIGHT, WIDTH), pose @ camera.camera2ego, HEIGHT, WIDTH, TIME, samples=1)
    np.testing.assert_array_equal(again.rgb, pictures["CAM_BACK"].rgb)
    assert other.rgb.shape == (20, 30, 3)


def test_sun_casts_shadows(renderer):
    """Ground under a clear sky has two brightnesses, and the shadow side is where the map says."""
    heights = renderer._shadows.sun
    walls = [p for p in renderer.scene.standing if p.shape.name == "building"]
    sun = np.array(renderer.weather.sun)
    ego = renderer.scene.ego.at(TIME)[0][:2, 3]
    tried = 0
    for wall in walls:
        x, y = wall.pose[:2]
        if np.hypot(x - ego[0], y - ego[1]) > 50:
            continue
        # A point inside the building's foot is dark; far above everything is light.
        dark, light = (sunlit(heights, (np.float32(x), np.float32(y), np.float32(z))) for z in (0.5, 80.0))
        assert dark == 0.0
        assert light == 1.0
        tried += 1
    assert tried >= 4
    assert sun[2] > 0.4


def lone(kind, centre, half, taper=(0.0, 0.0, 0.0), yaw=0.0):
    part = Part(kind, centre, half, (0.5, 0.5, 0.5), taper=taper, yaw=yaw, label=LABEL["car"])
    return Primitives.of([part], 0, 0.0)


def test_depth_is_the_distance_along_the_optical_axis():
    k = np.array([[80.0, 0, 50], [0, 80, 40], [0, 0, 1]])
    # Optical frame at 1.5 m looking along +x; a box face at x = 10 is a plane of constant depth.
    camera2map = np.eye(4)
    camera2map[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    camera2map[:3, 3] = (0.0, 0.0, 1.5)
    depth, row = cast(lone(Kind.BOX, (11.0, 0.0, 1.5), (1.0, 2.02, 1.02)), PinholeRays(k, camera2map, 80, 100))
    depth, row = depth.reshape(80, 100), row.reshape(80, 100)
    seen = row == 0
    np.testing.assert_allclose(depth[seen], 10.0, atol=1e-5)
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    # |y| <= 2.02 at 10 m is +-16.2 pixels about cx = 50, |z| <= 1.02 is +-8.2 about cy = 40.
    assert (int(columns[0]), int(columns[-1])) == (34, 66)
    assert (int(rows[0]), int(rows[-1])) == (32, 48)
    ball, hit = cast(lone(Kind.ELLIPSOID, (10.0, 0.0, 1.5), (1.0, 1.0, 1.0)), PinholeRays(k, camera2map, 80, 100))
    assert float(ball.reshape(80, 100)[40, 50]) == pytest.approx(9.0, abs=1e-4)
    outline = np.arcsin(0.1)  # the sphere's edge is tangent to the ray
    assert int((hit.reshape(80, 100)[40] == 0).sum()) == 2 * int(80 * np.tan(outline)) + 1


def test_a_solid_beside_the_camera_keeps_its_pixels():
    """Boxes that reach behind the camera are cut at the near plane, not dropped."""
    k = np.array([[80.0, 0, 50], [0, 80, 40], [0, 0, 1]])
    camera2map = np.eye(4)
    camera2map[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    wall = lone(Kind.BOX, (0.0, 2.0, 0.0), (30.0, 0.5, 20.0))
    depth, row = cast(wall, PinholeRays(k, camera2map, 80, 100))
    row, depth = row.reshape(80, 100), depth.reshape(80, 100)
    assert (row[:, :40] == 0).all()
    assert (row[:, 51:] == -1).all()
    # The wall's face is at y = 1.5: depth = 1.5 * f / (cx - u).
    assert float(depth[40, 0]) == pytest.approx(1.5 * 80 / 50, abs=1e-4)


def test_labels_follow_the_vehicle_and_the_grid(renderer):
    scene = renderer.scene
    pose = scene.ego.at(TIME)[0]
    dense = occupancy.dense_labels(scene, TIME, pose)
    assert dense.shape == OCC3D_GRID.shape
    assert dense.dtype == np.uint8
    assert np.isin(dense[:, :, 2], FLAT).mean() > 0.2
    assert not np.isin(dense[:, :, :2], range(FREE)).any(), "nothing lies below the ground"
    assert dense[100, 100, 2] == LABEL["driveable_surface"]
    # Half a turn of the vehicle turns the grid by half a turn.
    turned = occupancy.dense_labels(scene, TIME, pose @ planar(0.0, 0.0, np.pi))
    assert (turned[::-1, ::-1] == dense).mean() > 0.995
    small = occupancy.dense_labels(scene, TIME, pose, VoxelGrid((-8.0, -8.0, -1.0), (8.0, 8.0, 2.2), 0.4))
    np.testing.assert_array_equal(small, dense[80:120, 80:120, :8])
    sparse = occupancy.sparse_labels(scene, TIME)
    np.testing.assert_array_equal(sparse.dense(), dense)
