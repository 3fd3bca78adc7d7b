"""Every command of README and pages, and what runs it: a toy here, another test, or nothing for a reason.

A command of a page that no row of `ROWS` describes fails `test_commands.py`, and so does a row that no page needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md", "bags/README.md")),
]
PROGRAM = (
    r"(?:[A-Z_]+=\S+ )*"
    r"(?:\./run|ros2|python3?|pip install|cp|sudo|docker|cd|export|unset|mcap|rosbags-convert|rerun|\.venv/bin/\w+)"
)


def commands(text: str) -> list[str]:
    """The commands of a page, without comments: lines of code blocks, and inline code that begins with a program."""
    text = re.sub(r"\\\n\s+", "", text)
    found = [c for c in re.findall(r"`([^`\n]+)`", text) if re.fullmatch(rf"{PROGRAM} .*|\./run|rosbags-convert", c)]
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        found += re.findall(rf"^\s*({PROGRAM} .*)$", block, re.M)
    return [" ".join(re.sub(r"\s+#.*", "", line).split()) for line in [*found, *indented(text)]]


def indented(text: str) -> list[str]:
    """Lines of Markdown's indented code blocks; what is indented below `!!! note` or `:::` is none."""
    text = re.sub(r"\\\n\s+", "", text)
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    text = re.sub(r"^(?:!!!|:::).*\n(?:\s*\n|    .*\n?)*", "", text, flags=re.M)
    return re.findall(r"^ {4}(\S.*)$", text, re.M)


@dataclass(frozen=True)
class Row:
    """One command of the pages, or several of a kind.

    Attributes:
        says: Regular expression that the whole command matches.
        runs: Words after ./run that do the same at toy size, several commands with a semicolon; {names} are those of
            the fixture `places`. Rows with the same words run once.
        slow: Runs in a process of its own in ./run test --all, else within the test.
        until: For what runs until Ctrl-C: a line of its output after which it is told to end.
        codes: Exit statuses that are right.
        test: file::function below tests/ that runs it instead.
        cannot: Why nothing runs it.
    """

    says: str
    runs: str = ""
    slow: bool = False
    until: str = ""
    codes: tuple[int, ...] = (0,)
    test: str = ""
    cannot: str = ""


def _row(says: str, **how: object) -> Row:
    return Row(says, **how)  # type: ignore[arg-type]


GPU = "needs a GPU"
ROS = "needs the ros2 command of a ROS 2 install"
SYSTEM = "changes the system or the shell, not this package"
LANES = "cli/test_test_lanes.py::test_lanes"
BAG_VERB = "data/bags/test_bag_verb.py::"
FOXGLOVE = "data/bags/test_foxglove.py::test_images_pass_through_under_the_profiles_names"
DATA = "data/nuscenes/test_dataset.py::"
EGODRIVER = "serve/test_egodriver.py::test_fake_loop_drives_along_the_road"
VERB = "train/test_verb.py::test_from_scenes_to_shipped_weights"
STAGES = "eval/nuscenes/test_evaluation.py::test_later_stages_learn_from_the_same_folder"
RECIPE = "train/test_recipe.py::test_what_is_done_stays_and_what_depends_on_a_change_is_redone"
CTRL_C = "end_to_end/test_launch.py::test_ctrl_c_ten_times_at_other_moments"
CHECKPOINT = "end_to_end/test_public_checkpoint.py::test_a_checkpoint_file_drives_the_whole_graph"
REPORT = "eval/nuscenes/test_evaluation.py::test_one_epoch_and_a_full_report"

ROWS = (
    # --- look
    _row(r"\./run demo", test="end_to_end/test_demo.py::test_ends_well_and_says_what_it_is"),
    _row(r"\./run demo --preset opus_v2_t --bag \w+.*", test=CHECKPOINT),
    _row(r"\./run doctor", runs="doctor", codes=(0, 1)),
    _row(r"\./run cockpit(?: --bag ''| --host)?", test=CTRL_C),
    _row(r"\./run view", test=CTRL_C),
    _row(r"\./run view --foxglove", test="nodes/test_viewer.py::test_foxglove_gets_messages_as_they_are"),
    _row(r"\./run drive(?: --seed 90001)?", test=CTRL_C),
    _row(r"\./run drive(?: --scenario \w+)? --cockpit", test="end_to_end/test_launch.py::test_drive_opens_the_cockpit"),
    _row(r"\./run launch --show-args", runs="launch --show-args"),
    _row(r"\./run launch --print-params", runs="launch --print-params"),
    _row(
        r"\./run launch(?: preset:=\S+| bag:=(?: loop:=true cockpit:=true)?)?",
        test="end_to_end/test_launch.py::test_ctrl_c_ends_every_launch",
    ),
    _row(
        r"\./run launch bag:= rate:=0\.5",
        runs="launch bag:= rate:=4.0 preset:={preset}",
        slow=True,
    ),
    _row(
        r"\./run launch bag:= params_file:=\S+",
        runs="launch bag:= rate:=4.0 preset:={preset} params_file:={params}",
        slow=True,
    ),
    _row(
        r"\./run launch bag:= runtime:=openvino",
        runs="launch bag:= rate:=4.0 preset:={preset} runtime:=openvino",
        slow=True,
    ),
    _row(
        r"\./run launch (?:profile:=my_car\.yaml|bag:=BAG profile:=nuscenes2bag).*",
        runs="launch profile:={profile} bag:= rate:=4.0 preset:={preset} params_file:={params} cockpit:=true "
        "cockpit_port:={port}",
        slow=True,
    ),
    # --- bags and rigs
    _row(r"\./run bag info BAG", runs="bag info {bag}"),
    _row(r"\./run bag play BAG", test=CTRL_C),
    _row(r"\./run bag film .*", test="eval/test_bags.py::test_a_film_shows_the_drive"),
    _row(r"\./run bag(?: make.*)?", test=BAG_VERB + "test_make_writes_a_bag_and_does_not_overwrite_it"),
    _row(r"\./run bag foxglove .*", test=FOXGLOVE),
    _row(r"\./run bag nuscenes --dataroot \w+", test=BAG_VERB + "test_scenes_are_listed_when_none_is_given"),
    _row(
        r"\./run (?:bag nuscenes --dataroot \w+ --scene \S+ --out \w+|demo --bag \w+(?: --profile \w+)?)",
        runs="bag nuscenes --dataroot {root} --scene scene-9000 --out {out}/scene; "
        "demo --bag {out}/scene --profile nuscenes --preset {preset} --min-paths 1 --out {out}/demo",
        slow=True,
    ),
    _row(r"\./run rig draft BAG --out \S+", runs="rig draft {bag} --out {out}/my_car.yaml"),
    _row(
        r"\./run rig check BAG --profile \S+",
        runs="rig check {bag} --profile {profile} --seconds 1 --out {out}/rig.png",
    ),
    _row(
        r"\./run rig check(?: --profile \S+)?", runs="rig check --seconds 1 --out {out}/live.png", slow=True, codes=(1,)
    ),
    # --- data
    _row(r"\./run data check(?: NUSCENES)?", test=DATA + "test_everything_missing_is_reported_together_with_its_place"),
    _row(r"\./run data prepare NUSCENES", test=REPORT),
    _row(r"\./run data speed NUSCENES", test=DATA + "test_loading_is_measured_and_training_needs_its_root"),
    _row(
        r"\./run data world-root \w+ --scenes .*",
        runs="data world-root {out}/root --scenes 1 --seconds 1 --height 36",
        slow=True,
    ),
    # --- train
    _row(r"\./run train recipe tiny", test=RECIPE),
    _row(
        r"\./run train (?:prepare(?: --scenes .*)?|--stage 1 --minutes .*)"
        r"|\./run train ship out/train/occupancy/\S+(?: --preset \S+)?",
        runs="train prepare --scenes 1 --preset {preset}; train --stage 1 --steps 2 --scenes 1 --validation 1 "
        "--validate-every 1 --out {out}/occupancy --preset {preset} --device cpu --threads 1; "
        "train ship {out}/occupancy/best.safetensors --preset {preset}",
        slow=True,
    ),
    _row(
        r"\./run train rollouts \S+ --seeds \S+ --expert-share \S+",
        test="train/test_rollouts.py::test_the_expert_says_what_it_would_do_wherever_the_chain_gets_to",
    ),
    _row(r"\./run train anchors --seeds 310", runs="train anchors --seeds 20 --preset {preset}", slow=True),
    _row(r"\./run train(?: cache| ship)?", test=VERB),
    _row(r"\./run train --stage [23](?: (?!--data bag).*)?", test=VERB),
    _row(r"\./run train voxel-head", cannot="renders 60 scenes; train/test_voxel_head.py runs its fit"),
    _row(r"\./run train traffic-lights", cannot="renders 340 scenes; train/test_traffic_light_head.py runs its fit"),
    _row(
        r"\./run train (?:--stage 3|anchors) --data bag .*",
        test="train/test_bags.py::test_the_verb_learns_from_a_bag",
    ),
    _row(r"\./run train ship out/\S+ --stage \w+(?: --preset \S+)?", test=VERB),
    _row(r"\./run train (?:--stage 1 )?--preset opus\w+ --data nuscenes .*", test=REPORT),
    _row(
        r"\./run test tests/train/test_bags\.py -s",
        test="train/test_bags.py::test_twenty_seconds_of_a_drive_lower_the_error_on_others",
    ),
    _row(
        r"\./run env torchrun .* train --stage .*",
        cannot="nuScenes was not trained in several processes; the page says so",
    ),
    _row(
        r"\./run env torchrun .* train recipe .*",
        test="train/test_recipe.py::test_two_processes_train_the_encoder",
    ),
    # --- judge
    _row(r"\./run eval world", test="eval/world/test_evaluation.py::test_the_verb_leaves_a_folder_that_stands_alone"),
    _row(r"\./run eval nuscenes.*", test=REPORT),
    _row(
        r"\./run env torchrun .* eval nuscenes .*",
        test="eval/nuscenes/test_evaluation.py::test_torchrun_with_two_processes_gives_the_numbers_of_one",
    ),
    _row(
        r"\./run eval drive(?: --seeds \S+| --bags)?",
        runs="eval drive --seeds 90000:90001 --policies lane --bags --out {out}/drives --workers 1",
        slow=True,
    ),
    _row(
        r"\./run eval drive --policies chain(?:,\S+)? --scenario all --seeds \S+",
        test="eval/closed_loop/test_language_ablations.py::test_the_worth_of_language_is_paired_by_drive",
    ),
    _row(
        r"\./run eval drive --policies chain --vary all --scenario all --seeds \S+",
        test="eval/closed_loop/test_robustness.py::test_what_is_lost_is_counted_drive_by_drive",
    ),
    _row(
        r"\./run eval drive --seeds \S+ --ros",
        test="end_to_end/test_closed_loop.py::test_nodes_in_lockstep_drive_as_the_chain_does_without_them",
    ),
    _row(
        r"\./run eval bag(?: BAG| (?:out|bags)/\S+(?: --preset \S+)?)?",
        runs="eval bag {bag} --preset {preset} --untrained --seconds 5 --out {out}/judged --threads 1",
        slow=True,
    ),
    _row(
        r"\./run eval bag BAG --topic \S+", test="eval/test_bags.py::test_a_perfect_path_of_a_foreign_bag_has_no_error"
    ),
    # --- models and runtimes
    _row(r"\./run models list", runs="models list"),
    _row(r"\./run models fetch opus_v2_t", test="cli/test_models.py::test_without_a_hub_it_says_what_to_do"),
    _row(
        r"\./run models convert(?: FILE\.pth --preset opus_v2_t)?",
        test="cli/test_models.py::test_a_checkpoint_of_opus_v2_gives_its_preset_weights",
    ),
    _row(
        r"\./run export(?: --preset tiny)?(?: --runtime openvino| --precision bfloat16)?",
        runs="export --preset {preset} --runtime openvino",
        slow=True,
    ),
    _row(r"\./run export --runtime onnx", runs="export --preset {preset} --runtime onnx", slow=True),
    _row(r"\./run export --runtime tensorrt", cannot=GPU),
    _row(r"\./run serve egodriver(?: --port \d+| --host)?", test=EGODRIVER),
    # --- measure
    _row(r"\./run bench end_to_end", runs="bench end_to_end --rate 4 --preset {preset}", slow=True),
    _row(
        r"\./run bench end_to_end --hz .* --variants --json FILE",
        runs="bench end_to_end --rate 4 --preset {preset} --hz 10 --variants --json {out}/bench.json",
        slow=True,
    ),
    _row(r"\./run bench messages", runs="bench messages", slow=True),
    _row(r"\./run bench occupancy", runs="bench occupancy --preset {preset}", slow=True),
    _row(
        r"\./run bench occupancy --preset opus(?:_v2_t --against opus)?_t",
        cannot="minutes and 3 GB on a CPU; no smaller V1",
    ),
    _row(r"\./run bench runtimes", runs="bench runtimes --preset {preset}", slow=True),
    _row(r"\./run bench training", runs="bench training", slow=True),
    _row(r"\./run bench growth", test="end_to_end/test_bench.py::test_growth_of_queries_is_measured_and_drawn"),
    _row(r"\./run bench soak --minutes \d+", test="end_to_end/test_bench.py::test_soak_of_half_a_minute"),
    _row(
        r"\./run bench hardware --reduced",
        test="end_to_end/test_hardware_bench.py::test_the_reduced_pipeline_plans_reasons_and_answers_at_once",
    ),
    _row(r"\./run bench hardware", cannot=GPU),
    _row(r"\./run fuzz(?: --budget .*)?", test="faults/test_fuzz.py::test_one_verb_tries_every_decoder"),
    _row(
        r"\./run storm --minutes 10 --seed 7",
        runs="storm --minutes 0.5 --seed 7 --preset {preset} --json {out}/storm.json",
        slow=True,
        codes=(0, 1),  # a busy machine ends it with 1
    ),
    # --- develop
    _row(r"\./run docs", test="house/test_site.py::test_the_site_builds_strictly"),
    _row(r"\./run docs --serve", runs="docs --serve --port {port}", slow=True, until="Serving on"),
    _row(r"\./run test(?: --\w+| tests/planning)?", test=LANES),
    _row(
        r"(?:SPARSEOCCVLA_LONG_TESTS=1 )?\./run test tests/(?!train/test_bags)\S+ -[sk].*",
        cannot="names a test that needs real data or many minutes",
    ),
    _row(r"\./run env(?: COMMAND)?", test="cli/test_bootstrap.py::test_an_activated_environment_is_not_deleted"),
    _row(r"\./run env (?:ruff|mypy|pytest).*", cannot="CI runs it as it stands: .ci/run"),
    _row(r"\./run env python examples/ask\.py .*", test="nodes/test_examples.py::test_a_question_is_answered"),
    _row(
        r"\./run env python examples/set_parameter\.py .*",
        test="nodes/test_examples.py::test_a_parameter_changes_or_says_why_not",
    ),
    _row(r"\./run env python FILE", test="docs/test_commands.py::test_python_of_the_pages_runs"),
    _row(r"\./run(?: \w+ --help)?", test="house/test_package.py::test_every_verb_has_help"),
    # --- other programs
    _row(r"ros2 .*", cannot=ROS),
    _row(r"cd ros2_ws && colcon build && .*", test="house/test_colcon.py::test_installed_node_runs_from_the_install"),
    _row(r"(?:python -m )?pip install .*", cannot=SYSTEM),
    _row(r"python -m sparseoccvla_ros\.cli train recipe tiny --device cuda", cannot=GPU),
    _row(r"\.venv/bin/rerun \S+", cannot="opens a window"),
    _row(r"rerun analytics \w+", cannot=SYSTEM),
    _row(r"(?:sudo|docker|export|unset|cp) .*", cannot=SYSTEM),
    _row(r"(?:mcap recover .*|rosbags-convert)", cannot="a program of others"),
)


def rows_of(command: str) -> list[Row]:
    """The rows that describe a command; one is right."""
    return [row for row in ROWS if re.fullmatch(row.says, command)]
