"""Questions and answers about a scene, from its scene graph, in OmniDrive's families (Wang et al., CVPR 2025).

`facts` lists everything that can be asked at a time with its one canonical answer; `questions` keeps a share of them
such that the answers to one question are about equally frequent over scenes (balance.yaml), words them, and
so leaves little to learn from the question alone. All of it is a function of the seed and the time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from ...core import geometry
from ...core.errors import InvalidInput
from ...reasoning.prompts import trajectory_text
from ..agents.traffic import GREEN
from ..labels.annotations import on_road
from .counterfactuals import MANOEUVRES, Outcome, advice, outcome
from .scene_relations import ROAD_USERS, VEHICLES, SceneView, Thing, near_distance

FORMAT_VERSION = 1
KINDS = ("yes_no", "count", "direction", "distance", "text", "free_text", "trajectory")
"""The first five have one right answer, scored by eval.metrics.qa_accuracy."""
FAMILIES = ("desc", "conv", "keywords", "vqa", "planning")
COUNTED = ("car", "pedestrian", "truck", "bus", "cyclist", "traffic cone")
SIDES = {"ahead": "ahead within 30 m", "behind": "behind within 30 m", "left": "on the left within 30 m",
         "right": "on the right within 30 m", "around": "within 20 m"}  # fmt: skip
RANGES = (10, 20, 30)
BORDER = 0.5
"""Metres about the end of a range within which nothing may lie that the answer depends on."""
LANE_AHEAD, LANE_BEHIND, LANE_HALF = 6.0, 3.0, 1.3
"""Metres ahead of, behind and beside the rear axle, shifted to the next lane, that make room beside the car."""
BLIND = 0.9
"""Majority share of a question's answers from which on it needs no sight."""
MOST_CONV, MOST_WHAT_IF = 8, 2
KIND_SEEN, BEND_AHEAD = 35.0, 40.0
"""Metres before the stop line from which on the kind of the junction shows, and over which a bend is asked about."""


@dataclass(frozen=True)
class Fact:
    """name: of the template; slot: what its fields say (with the name it is the question whatever the wording);
    answer: the canonical one; fields: for the template."""

    name: str
    answer: str
    slot: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}/{self.slot}" if self.slot else self.name


@dataclass(frozen=True)
class Question:
    """One question with its answer. family: one of FAMILIES; kind: one of KINDS; key: the question whatever its
    wording; visual: the answer varies over scenes, so it takes sight."""

    family: str
    kind: str
    key: str
    question: str
    answer: str
    visual: bool


@lru_cache(maxsize=1)
def templates() -> dict[str, Any]:
    """questions.yaml beside this file; InvalidInput where its format, a family or a kind is unknown."""
    data = yaml.safe_load(files(__package__).joinpath("questions.yaml").read_text(encoding="utf-8"))
    if data["format_version"] != FORMAT_VERSION:
        raise InvalidInput("questions.format_version", f"want {FORMAT_VERSION}, got {data['format_version']!r}")
    for name, entry in data["questions"].items():
        if entry["family"] not in FAMILIES or entry["kind"] not in KINDS or not entry["texts"]:
            raise InvalidInput(
                f"questions.{name}", f"family {entry['family']!r}, kind {entry['kind']!r}, no such entry"
            )
    return data


@lru_cache(maxsize=1)
def balance() -> dict[str, dict[str, float]]:
    """Share of facts to keep by key and answer (balance.yaml); `majority` holds the share of the most frequent
    answer that remains."""
    path = files(__package__).joinpath("balance.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def yes(value: bool) -> str:
    """The canonical answer to a yes-or-no question."""
    return "Yes." if value else "No."


def facts(view: SceneView) -> list[Fact]:
    """Everything that can be asked about a view, in a fixed order."""
    return [*_surroundings(view), *_things(view), *_lanes(view), *_signals(view), *_actions(view)]


def _surroundings(view: SceneView) -> Iterator[Fact]:
    word = view.weather.word
    yield Fact("description", description(view))
    yield Fact("weather", f"{word.capitalize()}.")
    if word != "dusk":  # a low sun lights the street or not, as the houses have it
        yield Fact("shadows", yes(word in ("clear", "hazy")))
    yield Fact("place", f"{view.place.capitalize()}.")
    yield from _place(view)


def _place(view: SceneView) -> Iterator[Fact]:
    """What differs from place to place."""
    if 0.0 < view.room < KIND_SEEN:
        yield Fact("junction_kind", "A T-junction." if len(view.scene.streets.arms) == 1 else "A crossing.")
    if view.own_lane is not None and not (view.room > 0 and view.room < BEND_AHEAD):
        turned = view.bend(BEND_AHEAD)
        if abs(turned) > 0.15 or abs(turned) < 0.04:
            yield Fact("bend", "Left." if turned > 0.15 else "Right." if turned < -0.15 else "Straight.")


def _select(view: SceneView, word: str, side: str, reach: float) -> list[Thing] | None:
    """Seen things of a kind in a region; None where something doubtful, or unseen for lack of a camera, could change
    the answer."""
    if not view.covers(side):
        return None
    of_kind = [t for t in view.things if t.word == word]
    unsure = [t for t in view.doubtful if t.word == word and t.within(side) and t.distance < reach + BORDER]
    if unsure or any(t.within(side) and abs(t.distance - reach) < BORDER for t in of_kind):
        return None
    return [t for t in of_kind if t.within(side) and t.distance < reach]


def _things(view: SceneView) -> Iterator[Fact]:
    for word in COUNTED:
        for side, place in SIDES.items():
            found = _select(view, word, side, 20.0 if side == "around" else 30.0)
            if found is None:
                continue
            fields = {"thing": word, "things": word + ("es" if word == "bus" else "s"), "place": place}
            if side in ("ahead", "behind", "around") and len(found) <= 9:
                yield Fact("count", f"{len(found)}.", f"{word}/{side}", fields)
            if side != "around":
                yield Fact("exists", yes(bool(found)), f"{word}/{side}", fields)
    users = [t for t in view.things if t.word in ROAD_USERS]
    if len(users) == 1 or (len(users) > 1 and users[1].distance - users[0].distance > BORDER):
        yield Fact("nearest", f"{users[0].word.capitalize()}.")
    for word in COUNTED:
        alike = [t for t in view.things if t.word == word]
        clear = alike and not any(t.word == word and t.distance < alike[0].distance + BORDER for t in view.doubtful)
        # Two that are equally near leave the direction open, but not the distance.
        if clear and alike[0].distance < 45:
            yield Fact("distance", f"{near_distance(alike[0].distance)} m.", word, {"thing": word})
            if len(alike) == 1 or alike[1].distance - alike[0].distance > 1.0:
                yield Fact("direction", f"{alike[0].direction.capitalize()}.", word, {"thing": word})
    people = [t for t in view.things if t.word == "pedestrian"]
    if people:
        points = geometry.apply(view.frame, np.array([[t.x, t.y, 0.0] for t in people]))[:, :2]
        yield Fact("pedestrian_on_road", yes(bool(on_road(view.scene, points).any())))


def _lanes(view: SceneView) -> Iterator[Fact]:
    gap = view.lead[1] if view.lead else np.inf
    for reach in RANGES:
        if abs(gap - reach) > 2 * BORDER:
            fields = {"range": str(reach)}
            yield Fact("lead", yes(gap < reach), str(reach), fields)
            yield Fact("road_free", yes(gap > reach and not _on_path(view, reach)), str(reach), fields)
    if view.lead:
        yield Fact("lead_kind", f"{view.lead[0].word.capitalize()}.")
        yield Fact("lead_distance", f"{near_distance(max(gap, 2.5))} m.")
    aligned = view.own_lane is not None
    for side in ("left", "right"):
        offset = view.lane_beside(side)
        if aligned:
            yield Fact("lane_exists", yes(offset is not None), side, {"side": side})
        if offset is not None and view.covers(side):
            yield Fact("lane_free", yes(not _in_lane(view, offset)), side, {"side": side})


def _on_path(view: SceneView, reach: float) -> bool:
    """Whether anything seen stands on the ego's path within reach of the bumper."""
    mover = view.scene.ego.mover
    here = float(mover.motion(view.time)[0]) + mover.front
    for thing in view.things:
        if thing.x > 0 and thing.distance < reach + 10:
            x, y = geometry.apply(view.frame, np.array([thing.x, thing.y, 0.0]))[:2]
            s, beside = mover.path.nearest(float(x), float(y))
            if beside < 1.5 and 0 < s - here < reach:
                return True
    return False


def _in_lane(view: SceneView, offset: float) -> bool:
    for thing in view.things:
        size = view.boxes.size[thing.row]
        x, y = view.along_lane(thing)
        if abs(y - offset) < LANE_HALF and -LANE_BEHIND - 0.5 * size[0] < x < LANE_AHEAD + 0.5 * size[0]:
            return True
    return False


def _signals(view: SceneView) -> Iterator[Fact]:
    if view.place == "before":
        yield Fact("light_visible", yes(view.light is not None))
    if view.light is not None:
        yield Fact("light", f"{view.light.capitalize()}.")


def _actions(view: SceneView) -> Iterator[Fact]:
    heading = float(view.expert.heading[-1])
    way = "Left." if heading > 0.2 else "Right." if heading < -0.2 else "Straight on."
    if view.speed > 2.0:
        yield Fact("turning", way)
    yield Fact("attention", _attention(view))
    people = [t for t in view.things if t.word == "pedestrian" and t.within("ahead") and t.distance < 30]
    if people and view.yields == (view.yields_to is not None):
        yield Fact("yields", yes(view.yields))
    told = advice(view)
    if told is not None:
        yield Fact("action", f"{told.action.capitalize()}, because {told.reason}.")
        yield Fact("keywords", f"{told.action.capitalize()}.")
    for manoeuvre in MANOEUVRES:
        result = outcome(view, manoeuvre)
        if result is not None:
            words = {"manoeuvre": templates()["manoeuvres"][manoeuvre], "trajectory": trajectory_text(result.waypoints)}
            yield Fact("crash", yes(result.event == "collision"), manoeuvre, words)
            yield Fact("what_if", outcome_text(result), manoeuvre, words)
    yield Fact("planning", f"Here is the planning trajectory {trajectory_text(view.expert.waypoints)}.")


def outcome_text(result: Outcome) -> str:
    """The canonical answer to a what-if question."""
    return {
        "collision": f"Collision with a {result.thing}.".replace("a obstacle", "an obstacle"),
        "off_road": "The car leaves the road.",
        "red_light": "The car runs a red light.",
        "safe": "Nothing happens.",
    }[result.event]


def _attention(view: SceneView) -> str:
    """The light that holds the car, else who is close ahead, else the junction, else nothing."""
    if view.yields_to is not None:
        return "The pedestrian ahead."
    if view.light not in (None, GREEN) and view.room < 30:
        return "The traffic light."
    if view.lead and view.lead[1] < 20:
        return f"The {view.lead[0].word} ahead."
    for thing in view.things:
        if (
            thing.word in ("pedestrian", "cyclist")
            and thing.within("ahead")
            and thing.distance < 20
            and abs(thing.y) < 6
        ):
            return f"The {thing.word} ahead."
    if view.room > 50:
        return "The bend ahead." if abs(view.bend(40.0)) > 0.15 else "Nothing special."
    return "The junction." if view.place != "after" else "Nothing special."


def description(view: SceneView) -> str:
    """One paragraph: weather, place, who is ahead, the light, the lane."""
    road = {"before": "The car is before the junction.", "on": "The car is on the junction.",
            "after": "The car is after the junction."}  # fmt: skip
    ahead = []
    for word in (*VEHICLES, "cyclist", "pedestrian"):
        count = sum(t.word == word and t.within("ahead") and t.distance < 30 for t in view.things)
        if count:
            ahead.append(f"{count} {word}" + ("" if count == 1 else "es" if word == "bus" else "s"))
    word = view.weather.word
    parts = [f"It is {word}." if word in ("dusk", "night") else f"{word.capitalize()} weather.", road[view.place]]
    parts.append(f"Ahead within 30 m: {', '.join(ahead)}." if ahead else "Nobody is ahead within 30 m.")
    if view.light:
        parts.append(f"The light is {view.light}.")
    if view.lead and view.lead[1] < 30:
        parts.append(f"A {view.lead[0].word} is {near_distance(view.lead[1])} m ahead in the own lane.")
    return " ".join(parts)


def draw(view: SceneView, fact: Fact, purpose: str) -> np.random.Generator:
    """The random numbers of one fact at one time of one scene, whatever else is asked."""
    key = zlib.crc32(f"{fact.key}:{purpose}".encode())
    return np.random.default_rng([view.scene.seed, round(view.time * 1000), key])


def balanced(view: SceneView, table: dict[str, dict[str, float]] | None = None) -> list[Fact]:
    """The facts that are kept so that answers balance; table: shares by key and answer, the shipped ones where None."""
    table = balance() if table is None else table
    kept = []
    for fact in facts(view):
        share = table.get(fact.key, {}).get(fact.answer, 1.0)
        if draw(view, fact, "keep").random() < share:
            kept.append(fact)
    return kept


def worded(view: SceneView, fact: Fact) -> Question:
    """A fact in one of its wordings."""
    entry = templates()["questions"][fact.name]
    texts = entry["texts"]
    text = texts[int(draw(view, fact, "wording").integers(len(texts)))].format(**fact.fields)
    visual = balance().get(fact.key, {}).get("majority", 0.0) < BLIND
    return Question(entry["family"], entry["kind"], fact.key, text, fact.answer, visual)


def questions(view: SceneView) -> list[Question]:
    """The set of a view: at most MOST_CONV of conversation and MOST_WHAT_IF what-ifs, one of every other kind."""
    kept = balanced(view)
    order = {f.key: draw(view, f, "order").random() for f in kept}
    out = [f for f in kept if f.name not in ("what_if",) and templates()["questions"][f.name]["family"] != "conv"]
    for most, group in (
        (MOST_CONV, [f for f in kept if templates()["questions"][f.name]["family"] == "conv"]),
        (MOST_WHAT_IF, [f for f in kept if f.name == "what_if"]),
    ):
        out += sorted(group, key=lambda f: order[f.key])[:most]
    return [
        worded(view, f) for f in sorted(out, key=lambda f: FAMILIES.index(templates()["questions"][f.name]["family"]))
    ]
