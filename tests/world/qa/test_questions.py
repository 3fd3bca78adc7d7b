"""Answers are what the scene is: derived a second time by hand, on whole scenes and on scenes made for the purpose."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import inverse, yaw_of
from sparseoccvla_ros.data.nuscenes.omnidrive import read_questions, write_questions
from sparseoccvla_ros.eval.metrics.qa_accuracy import KINDS as SCORED
from sparseoccvla_ros.eval.metrics.qa_accuracy import read_answer
from sparseoccvla_ros.world.agents.actors import Moving
from sparseoccvla_ros.world.agents.traffic import walk
from sparseoccvla_ros.world.labels.annotations import first_contact
from sparseoccvla_ros.world.qa import counterfactuals
from sparseoccvla_ros.world.qa.balance import shares
from sparseoccvla_ros.world.qa.questions import FAMILIES, KINDS, balanced, draw, facts, questions, templates
from sparseoccvla_ros.world.qa.scene_relations import SceneView, near_distance
from sparseoccvla_ros.world.render.camera_rig import load_rig
from sparseoccvla_ros.world.roads.curves import Curve
from sparseoccvla_ros.world.scene import Scene
from sparseoccvla_ros.world.shapes import objects, vehicles

TIMES = (1.0, 4.0, 7.5, 11.0)


@pytest.fixture(scope="module")
def views(scene):
    return [SceneView(scene, t) for t in TIMES]


def standing(scene, things):
    """The scene without its traffic but with shapes that stand at x, y (base_link at t = 1), heading as the ego."""
    frame = scene.ego.at(1.0)[0]
    moving = []
    for shape, x, y in things:
        place = (frame @ np.array([x, y, 0.0, 1.0]))[:2]
        yaw = yaw_of(frame)
        ahead = place + np.array([np.cos(yaw), np.sin(yaw)])
        path = Curve(np.stack([place, ahead]), np.full(2, yaw))
        moving.append(Moving(shape, walk(path, 0.0, 0.0, 0.0, scene.duration + 8)))
    return SceneView(
        Scene(scene.seed, scene.streets, scene.standing, moving, scene.ego, scene.signals, scene.maneuver), 1.0
    )


def answers(view):
    return {f.key: f.answer for f in facts(view)}


def test_nothing_is_said_to_be_absent_where_no_camera_looks(scene):
    """Six cameras see all sides; without those at the back nothing behind is counted, or said not to be there."""
    every, ahead = SceneView(scene, 1.0), SceneView(scene, 1.0, load_rig()[:3])
    assert all(every.covers(side) for side in ("ahead", "behind", "left", "right", "around"))
    assert [s for s in ("ahead", "behind", "left", "right", "around") if ahead.covers(s)] == ["ahead"]
    keys = {f.key for f in facts(ahead)}
    assert any(k.startswith("count/") and k.endswith("/ahead") for k in keys)
    assert not any(k.endswith(("/behind", "/around")) for k in keys)


def test_an_empty_lane_and_a_car_in_it(scene):
    """Two scenes made by hand; every answer follows from where the two things were put."""
    rng = np.random.default_rng(3)
    person = objects.pedestrian(rng)
    free = standing(scene, [(person, 12.0, 7.0)])
    told = answers(free)
    assert told["exists/car/ahead"] == "No."
    assert told["exists/pedestrian/ahead"] == "Yes."
    assert told["lead/30"] == "No."
    assert told["road_free/20"] == "Yes."
    assert told["direction/pedestrian"] == "Front left."
    assert told["distance/pedestrian"] == "15 m.", "13.9 m away"
    assert "lead_kind" not in told

    car = vehicles.car(rng)
    blocked = standing(scene, [(car, 15.0, 0.0), (person, 12.0, 7.0)])
    told = answers(blocked)
    gap = 15.0 - 0.5 * car.length - scene.ego.mover.front
    assert blocked.lead is not None
    assert blocked.lead[1] == pytest.approx(gap, abs=0.3)
    assert told["exists/car/ahead"] == "Yes."
    assert told["count/car/ahead"] == "1."
    assert told["lead/20"] == "Yes."
    assert told["road_free/20"] == "No."
    assert told["lead_kind"] == "Car."
    assert told["lead_distance"] == f"{near_distance(gap)} m."
    assert told["crash/accelerate"] == "Yes."
    assert told["what_if/accelerate"] == "Collision with a car."
    assert answers(free)["what_if/accelerate"] != told["what_if/accelerate"]


def test_what_is_hidden_is_not_asked_about(scene):
    """A person right behind a bus is in nobody's picture, and no answer counts them."""
    rng = np.random.default_rng(5)
    bus, person = vehicles.bus(rng), objects.pedestrian(rng)
    view = standing(scene, [(bus, 18.0, 0.0), (person, 27.0, 0.0)])
    assert view.pixels_of(len(view.scene.standing)) > 100
    assert view.pixels_of(len(view.scene.standing) + 1) == 0
    assert answers(view)["exists/pedestrian/ahead"] == "No."
    assert answers(view)["exists/bus/ahead"] == "Yes."


def test_counts_agree_with_the_scene(views):
    """Counts again, from the movers and not from the boxes: what is shown within the region is what is said."""
    checked = 0
    for view in views:
        told = answers(view)
        back = inverse(view.frame)
        for side, towards in (("ahead", 1.0), ("behind", -1.0)):
            key = f"count/car/{side}"
            if key not in told:
                continue
            count = 0
            for owner, thing in enumerate([*view.scene.standing, *view.scene.moving]):
                if int(thing.shape.parts[0].label) != LABEL["car"] or view.pixels_of(owner) < 16:
                    continue
                moves = hasattr(thing, "mover")
                plan = thing.mover.rectangle(view.time) if moves else thing.rectangle
                x, y = (back @ np.array([plan[0], plan[1], 0.0, 1.0]))[:2]
                t = np.linspace(-0.5, 0.5, 41)
                turn = plan[2] - yaw_of(view.frame)
                edge = np.stack(np.meshgrid(t * plan[3], t * plan[4]), -1).reshape(-1, 2)
                c, s = np.cos(turn), np.sin(turn)
                near = np.hypot(x + c * edge[:, 0] - s * edge[:, 1], y + s * edge[:, 0] + c * edge[:, 1]).min()
                count += bool(near < 30.0 and towards * x >= abs(y))
            assert told[key] == f"{count}.", (view.time, side)
            checked += 1
    assert checked >= 4


def test_light_is_the_one_that_the_ego_obeys(views):
    seen = 0
    for view in views:
        told = answers(view)
        if "light" in told:
            colour = view.scene.signals.colour("main_east", view.time)
            assert told["light"] == f"{colour.capitalize()}."
            assert view.room > -1.0
            seen += 1
        if view.place != "before":
            assert "light" not in told
    assert seen >= 1


def test_what_if_ends_where_the_sweep_touches(views):
    """Safe sweeps touch no seen thing, and the driven one is never called a crash."""
    for view in views:
        assert first_contact(view.scene, view.time, view.expert.sweep) is None
        for manoeuvre in counterfactuals.MANOEUVRES:
            sweep = counterfactuals.sweep_of(manoeuvre, view.speed)
            result = counterfactuals.outcome(view, manoeuvre)
            if sweep is None or result is None:
                continue
            assert result.event in ("collision", "off_road", "red_light", "safe")
            np.testing.assert_allclose(result.waypoints, sweep[4::5, :2], atol=1e-5)
            assert 0 < result.seconds <= 3.0
            if result.event == "red_light":
                assert view.light in ("red", "amber")


def test_every_answer_is_canonical(views):
    """Answers end with a full stop, are read by the scorer as their kind, and hold no field that was not filled."""
    kinds = Counter()
    for view in views:
        for question in questions(view):
            assert question.family in FAMILIES
            assert question.kind in KINDS
            assert not set("{}") & set(question.question + question.answer)
            assert question.answer[-1] == "."
            kinds[question.kind] += 1
            if question.kind in SCORED:
                assert read_answer(question.answer, question.kind) is not None, question
            if question.kind == "trajectory":
                points = [
                    tuple(map(float, pair)) for pair in re.findall(r"\(([-+.\d]+), ([-+.\d]+)\)", question.answer)
                ]
                np.testing.assert_allclose(points, view.expert.waypoints, atol=0.011)
    assert set(kinds) == set(KINDS)


def test_wordings_vary_and_fields_fit():
    for name, entry in templates()["questions"].items():
        assert len(set(entry["texts"])) == len(entry["texts"]), name
        assert name == "planning" or len(entry["texts"]) >= 2, name


def test_same_seed_and_time_ask_the_same(scene, views):
    again = SceneView(scene, TIMES[1])
    assert questions(again) == questions(views[1])
    assert questions(views[0]) != questions(views[1])
    fact = facts(views[0])[0]
    assert draw(views[0], fact, "a").random() != draw(views[0], fact, "b").random()


@pytest.mark.slow
def test_balance_leaves_nothing_to_the_blind(views):
    """Shares even out two answers exactly and many as far as they go; the shipped table knows every scored question."""
    counts = {
        "exists/car/ahead": Counter({"Yes.": 90, "No.": 30}),
        "count/bus/ahead": Counter({"0.": 70, "1.": 20, "2.": 10, "3.": 1}),
        "crash/brake": Counter({"No.": 80}),
    }
    table = shares(counts)
    assert table["exists/car/ahead"] == {"Yes.": pytest.approx(1 / 3, abs=1e-3), "majority": 0.5}
    assert table["count/bus/ahead"]["majority"] <= 0.34
    assert table["crash/brake"] == {"No.": 0.0, "majority": 1.0}
    for view in views:
        assert set(f.key for f in balanced(view)) <= {f.key for f in facts(view)}
        asked = balanced(view, {})
        assert len(asked) == len(facts(view))
        for question in questions(view):
            assert question.visual


def test_files_follow_omnidrive(views, tmp_path):
    view = views[1]
    asked, token = questions(view), "world-000034-004000"
    write_questions(tmp_path, "train", token, asked)
    assert read_questions(tmp_path, "train", token) == asked
    conv = json.loads((tmp_path / "conv" / "train" / f"{token}.json").read_text())
    assert all(set(pair) == {"question", "answer"} for pair in conv)
    desc = json.loads((tmp_path / "desc" / "train" / f"{token}.json").read_text())
    assert set(desc) == {"description", "action"}
    assert len(json.loads((tmp_path / "vqa" / "train" / f"{token}.json").read_text())) >= 1
    # OmniDrive's own data have no kinds and no planning.
    (tmp_path / "kinds" / "train" / f"{token}.json").unlink()
    theirs = read_questions(tmp_path, "train", token)
    assert {q.answer for q in theirs} == {q.answer for q in asked if q.family != "planning"}
    assert {q.kind for q in theirs} == {"free_text"}
    assert read_questions(tmp_path, "val", token) == []
    with pytest.raises(InvalidInput, match="token"):
        read_questions(tmp_path, "train", "../../etc/passwd")
    (tmp_path / "conv" / "train" / f"{token}.json").write_text("[1]")
    with pytest.raises(InvalidInput, match="conv"):
        read_questions(tmp_path, "train", token)
    (tmp_path / "conv" / "train" / f"{token}.json").write_text("{")
    with pytest.raises(InvalidInput, match="JSON"):
        read_questions(tmp_path, "train", token)
