"""The world: every kind of place comes up, everybody is waited for, and labels, pictures and answers agree."""

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.geometry import camera_matrix, inverse, project
from sparseoccvla_ros.planning.trajectory import SWEEP_TIMES
from sparseoccvla_ros.world.agents.pedestrians import crossing
from sparseoccvla_ros.world.agents.traffic import RED, Mover, Phases, overlap, simulate
from sparseoccvla_ros.world.generator import People
from sparseoccvla_ros.world.labels import occupancy
from sparseoccvla_ros.world.labels.annotations import ego_plan, expert, first_contact, on_road
from sparseoccvla_ros.world.qa.questions import facts, questions
from sparseoccvla_ros.world.qa.scene_relations import SceneView
from sparseoccvla_ros.world.render.camera_rig import load_rig
from sparseoccvla_ros.world.render.renderer import Renderer
from sparseoccvla_ros.world.render.weather import WORDS, Weather
from sparseoccvla_ros.world.roads.curves import Curve
from sparseoccvla_ros.world.scenario import draw
from sparseoccvla_ros.world.scene import Scene

SEEDS = (20_004, 20_006, 20_014, 20_018, 20_019)
MORE = (20_011, 20_016, 20_022, 20_024, 20_027, 20_033, 20_036)
ACCELERATE, BRAKE, LATERAL = 2.40, 4.05, 4.89
"""Highest comfortable accelerations in m/s^2 (nuPlan's comfort metric, Caesar et al. 2021)."""
TIMES = np.arange(-1.0, 24.0, 0.25)
HEIGHT, WIDTH = 99, 176


@pytest.fixture(
    scope="module",
    params=[pytest.param(SEEDS, id="few seeds"), pytest.param(SEEDS + MORE, id="many seeds", marks=pytest.mark.slow)],
)
def scenes(request):
    return {seed: Scene.generate(seed) for seed in request.param}


def test_every_kind_of_place_comes_up():
    """Over many seeds, shares; places are drawn without building them."""
    plans = [draw(np.random.default_rng([s, 29]), None) for s in range(400)]
    shares = {
        "tee": np.mean([len(p.streets.arms) == 1 for p in plans]),
        "bend": np.mean([len(p.streets.main.pieces) > 2 for p in plans]),
        "narrow": np.mean([len(p.streets.main.lanes) == 1 for p in plans]),
        "parking": np.mean([p.streets.main.parking > 0 for p in plans]),
        "median": np.mean([p.streets.main.median > 0 for p in plans]),
        "beyond": np.mean([p.beyond for p in plans]),
        "far": np.mean([p.start < -100 for p in plans]),
        "site": np.mean([p.furnishing.site is not None for p in plans]),
        **{m: np.mean([p.maneuver == m for p in plans]) for m in ("left", "straight", "right")},
    }
    assert min(shares.values()) > 0.08, shares
    assert max(shares.values()) < 0.75, shares
    words = [Weather.generate(s).word for s in range(400)]
    assert all(0.05 < words.count(w) / 400 < 0.4 for w in WORDS)
    for plan in plans:
        assert plan.maneuver == "straight" or {"left": 1.0, "right": -1.0}[plan.maneuver] in plan.streets.arms
        assert all(
            2.9 < b - a < 3.7 for a, b in zip(plan.streets.main.lanes, plan.streets.main.lanes[1:], strict=False)
        )


@pytest.mark.slow
def test_a_seed_is_a_world_whatever_its_length(scenes):
    seed = SEEDS[1]
    again = Scene.generate(seed, 8.0)
    assert np.array_equal(again.at(3.0).fixed.centre, scenes[seed].at(3.0).fixed.centre)
    assert np.array_equal(again.at(3.0).moving.centre, scenes[seed].at(3.0).moving.centre), (
        "whatever the drive's length"
    )
    assert scenes[seed].maneuver == "right"
    asked = Scene.generate(seed, 3.0, "left")
    assert asked.maneuver == "left"
    assert 1.0 in asked.streets.arms


def test_nobody_touches_anybody_and_the_ego_keeps_to_its_lane(scenes):
    for seed, scene in scenes.items():
        mover = scene.ego.mover
        body = mover.rectangle(TIMES)
        tracks = np.stack([m.mover.rectangle(TIMES) for m in scene.moving])
        assert not overlap(body[None], tracks, 0.15).any(), seed
        assert not overlap(body[:, None], np.stack([p.rectangle for p in scene.standing])[None], 0.05).any(), seed
        for i in range(len(tracks)):
            assert not overlap(tracks[i : i + 1], tracks[i + 1 :], 0.1).any(), seed
        half = np.stack(np.meshgrid([-0.5, 0.0, 0.5], [-0.5, 0.5]), -1).reshape(-1, 2)
        plans = ego_plan(mover.pose(TIMES))
        local = half[None] * plans[:, None, 3:]
        c, s = np.cos(plans[:, 2:3]), np.sin(plans[:, 2:3])
        x = plans[:, :1] + c * local[..., 0] - s * local[..., 1]
        y = plans[:, 1:2] + s * local[..., 0] + c * local[..., 1]
        assert on_road(scene, np.stack([x, y], -1)).all(), seed
        own = [view_lane(scene, float(t)) for t in np.arange(0.0, 20.0, 1.0)]
        assert sum(o is not None for o in own) >= 4, seed
        assert max((o for o in own if o is not None), default=1.0) < 0.3, seed


def view_lane(scene, time):
    """Metres from the middle of a lane of the main street, None where the ego turns or drives in the other street."""
    pose = scene.ego.at(time)[0]
    street = scene.streets.main
    s, lateral = street.at(float(pose[0, 3]), float(pose[1, 3]))
    yaw = np.arctan2(pose[1, 0], pose[0, 0]) - float(street.pose(s)[2])
    if abs(np.sin(yaw)) > 0.03 or abs(lateral) > street.half_width:
        return None
    assert lateral * np.cos(yaw) < 0, "traffic keeps right"
    return min(abs(abs(lateral) - lane) for lane in street.lanes)


def test_drives_are_comfortable_and_stop_at_red(scenes):
    for seed, scene in scenes.items():
        mover = scene.ego.mover
        assert -mover.forces.min() < BRAKE, seed
        assert mover.forces.max() < ACCELERATE, seed
        rate = np.diff(mover.forces) / np.diff(mover.times)
        moving = (mover.speeds[1:] > 0.3) & (mover.speeds[:-1] > 0.3)
        assert np.abs(rate[moving]).max() < 20.0, "the planner's gate refuses more"
        for time in np.arange(0.0, 20.0, 2.0):
            along, speed = mover.motion(time + SWEEP_TIMES)
            curvature = [float(mover.path.curvature_at(s)) for s in along]
            assert (speed**2 * np.abs(curvature)).max() <= LATERAL, (seed, time)
            assert first_contact(scene, float(time), expert(scene, float(time)).sweep) is None, (seed, time)
        for m in [mover, *(m.mover for m in scene.moving)]:
            fronts = m.travelled + m.front
            for line, approach in m.stops:
                passed = np.flatnonzero((fronts[:-1] < line) & (fronts[1:] >= line))
                assert all(scene.signals.colour(approach, float(m.times[k])) != RED for k in passed), seed


def test_drives_stand_yield_and_pass(scenes):
    """Over the seeds: some stand and go on, some pass without a stop, some wait for people."""
    stands, goes, passes, yields = [], [], [], []
    for seed, scene in scenes.items():
        mover = scene.ego.mover
        drive = (mover.times >= 0) & (mover.times <= 20.0)
        slow = mover.speeds[drive] < 0.3
        stands.append(slow.sum() * 0.1 > 2.0)
        goes.append(stands[-1] and mover.speeds[drive][-1] > 1.0)
        passes.append(mover.speeds[drive].min() > 3.0)
        held = (mover.yields[drive] >= 0) & ((mover.forces[drive] < -0.3) | slow)
        yields.append(held.any())
        for k in np.unique(mover.yields[drive][held]):
            assert any(m.mover is mover.held_by[k] for m in scene.moving), seed
    print(f"stand {sum(stands)}, go on {sum(goes)}, pass {sum(passes)}, yield {sum(yields)} of {len(scenes)}")
    assert min(sum(stands), sum(goes), sum(passes), sum(yields)) >= 2


def test_a_car_waits_for_someone_who_crosses():
    """On an empty road: it stops before the person's way, stays while the person is in it, and goes on."""
    x = np.linspace(0.0, 300.0, 1500)
    car = Mover(Curve(np.stack([x, 0 * x], -1), 0 * x), 4.5, 1.8, 0.0, 11.0, 11.0)
    points = np.array([[72.0, -6.0], [70.0, -5.0], [70.0, 5.0], [72.0, 6.0]])
    person = crossing(points, 1.3, -0.5)
    simulate([car], Phases(((-60.0, 90.0),), ()), 25.0, people=People([person]))
    there = person.mover.pose(car.times)
    front, rear = car.travelled + car.front, car.travelled - car.front
    inside = np.abs(there[:, 1]) < 0.5 * 1.8 + 0.3
    assert inside.any()
    assert not (inside & (front > 69.7) & (rear < 70.3)).any()
    assert (car.yields >= 0).any()
    assert car.forces.min() > -3.5
    assert car.travelled[-1] > 150.0
    late = crossing(points, 1.3, 4.0)
    car = Mover(Curve(np.stack([x, 0 * x], -1), 0 * x), 4.5, 1.8, 0.0, 11.0, 11.0)
    simulate([car], Phases(((-60.0, 90.0),), ()), 25.0, people=People([late]))
    assert car.speeds.min() > 10.0, "someone who comes when the car is near lets it pass"
    assert late.mover.travelled[-1] == pytest.approx(late.mover.path.length)


@pytest.mark.parametrize("seed", [20_004, 20_019])
def test_pictures_labels_and_answers_of_a_junction_with_three_arms_and_of_a_bend(scenes, seed):
    scene = scenes[seed]
    assert len(scene.streets.arms) == 1
    assert len(scene.streets.main.pieces) > 2
    renderer = Renderer(scene)
    time = 5.0
    frame = scene.ego.at(time)[0]
    centres = occupancy.sparse_labels(scene, time)
    points, agree, total = centres.centres().astype(np.float64), 0, 0
    for camera in load_rig("n015"):
        k = camera.scaled(HEIGHT, WIDTH)
        picture = renderer.render(k, frame @ camera.camera2ego, HEIGHT, WIDTH, time, samples=1)
        assert picture.rgb.std() > 15
        assert 40 < picture.rgb.mean() < 210, "neither drowned nor burnt out"
        pixel, depth = project(camera_matrix(k, inverse(camera.camera2ego)), points, near=0.2)
        seen = np.isfinite(pixel).all(-1)
        u, v = np.round(np.where(seen[:, None], pixel, -9.0)).astype(int).T
        inside = seen & (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
        near = inside.copy()
        near[inside] = np.abs(picture.depth[v[inside], u[inside]] - depth[inside]) < 0.4
        agree += (picture.label[v[near], u[near]] == centres.labels[near]).sum()
        total += near.sum()
    assert total > 2000
    assert agree / total > 0.955
    view = SceneView(scene, time)
    told = {f.key: f.answer for f in facts(view)}
    assert told["weather"] == f"{Weather.generate(seed).word.capitalize()}."
    assert told.get("junction_kind", "A T-junction.") == "A T-junction."
    lanes = scene.streets.main.lanes
    if view.own_lane is not None and view.own_lane.street is scene.streets.main:
        outer = abs(view.own_lane.offset - lanes[-1]) < 0.5
        assert told["lane_exists/right"] == ("No." if outer else "Yes.")
        assert told["lane_exists/left"] == ("Yes." if outer and len(lanes) == 2 else "No.")
    assert len(questions(view)) > 5


def test_the_far_kerb_of_a_t_junction_runs_on(scenes):
    for scene in (s for s in scenes.values() if len(s.streets.arms) == 1):
        streets = scene.streets
        arm, half = streets.arms[0], streets.main.half_width
        x = np.linspace(-12.0, 12.0, 25)
        label = {
            name: streets.label(np.stack([x, np.full_like(x, -arm * (half + beyond))], -1))
            for name, beyond in (("road", -0.3), ("sidewalk", 0.3), ("land", 4.0))
        }
        assert (label["road"] == LABEL["driveable_surface"]).all()
        assert (label["sidewalk"] == LABEL["sidewalk"]).all()
        assert (label["land"] == LABEL["terrain"]).all()
        mouth = streets.label(np.array([[0.0, arm * (half + 20.0)]]))
        assert mouth.item() == LABEL["driveable_surface"]


def test_fog_hides_what_is_far(scenes):
    """The same view in clear air and in fog: less is seen, nothing near is lost."""
    scene = scenes[20_014]
    fog, clear = Weather.generate(20_011), Weather.generate(20_018)
    assert fog.foggy
    assert not clear.foggy
    thick, thin = SceneView(scene, 2.0, weather=fog), SceneView(scene, 2.0, weather=clear)
    lost = {t.instance for t in thin.things} - {t.instance for t in thick.things}
    assert {t.instance for t in thick.things} <= {t.instance for t in thin.things}
    reach = 1.5 / fog.haze
    assert all(t.distance > reach - 20.0 for t in thin.things if t.instance in lost)
