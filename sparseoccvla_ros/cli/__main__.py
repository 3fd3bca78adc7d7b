"""The verbs of ./run. Heavy imports happen inside the functions, so that --help is fast."""

from __future__ import annotations

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="./run",
    help="SparseOccVLA for ROS 2: cameras in; occupancy, language and a planned path out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

serve_app = typer.Typer(no_args_is_help=True)

Json = Annotated[Path | None, typer.Option("--json", help="also write the numbers to this file")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for picture, recording, bag of outputs and summary")] = Path(
        "out/demo"
    ),
    bag: Annotated[Path | None, typer.Option(help="bag to play; the bundled world if not given")] = None,
    rate: Annotated[
        float,
        typer.Option(min=0.05, max=10.0, help="highest speed, times real time; waits for a slow machine"),
    ] = 1.0,
    preset: Annotated[str, typer.Option(help="model preset")] = "tiny",
    profile: Annotated[
        str, typer.Option(help="cameras and topics of the bag: a name in config/profiles, or a file")
    ] = "nuscenes",
    duration: Annotated[float, typer.Option(min=0.0, help="play only this much of the bag, in s; 0 plays all")] = 0.0,
    composed: Annotated[bool, typer.Option(help="run the four stages in one process")] = False,
    min_paths: Annotated[int, typer.Option(min=0, help="fewer paths than this count as a failure")] = 5,
) -> None:
    """Play a bag through every node and show the result."""
    from .demo import run_demo

    raise typer.Exit(run_demo(out, bag, rate, preset, profile, duration, composed, min_paths))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the tests: all but slow ones, or --quick (no ROS), --numeric (several instruction sets), --all.

    Further arguments are passed to pytest.
    """
    from sparseoccvla_ros.core.paths import share

    from .test_lanes import run_tests

    os.chdir(share())
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_LOG_DIR", str(share("out", "test_logs")))
    raise typer.Exit(run_tests(context.args))


@app.command(context_settings={"allow_extra_args": True})
def launch(
    context: typer.Context,
    show_args: Annotated[bool, typer.Option("--show-args", help="list the arguments and end")] = False,
    print_params: Annotated[bool, typer.Option("--print-params", help="print config/params.yaml and end")] = False,
) -> None:
    """Start the nodes live, or on a bag: ./run launch [bag:=FOLDER] [NAME:=VALUE ...]. Ctrl-C ends."""
    from .launch import run_launch

    raise typer.Exit(run_launch(context.args, show_args, print_params))


@app.command()
def view(
    out: Annotated[Path | None, typer.Option(help="folder for the recording; nothing is written if not given")] = None,
    port: Annotated[int, typer.Option(min=1024, max=65535, help="port of the browser view on this machine")] = 9090,
    namespace: Annotated[str, typer.Option(help="namespace of the running stack")] = "/sparseoccvla",
    foxglove: Annotated[bool, typer.Option("--foxglove", help="for Foxglove, at ws://127.0.0.1:8765, instead")] = False,
) -> None:
    """Show the running stack live in a browser, or in Foxglove, and record it. Ctrl-C ends."""
    from sparseoccvla_ros.nodes.viewer import main

    arguments = ["--ros-args", "-r", f"__ns:={namespace}", "-p", f"port:={port}"]
    arguments += ["-p", f"{'foxglove' if foxglove else 'serve'}:=true"]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        arguments += ["-p", f"out:='{out}'"]
    raise typer.Exit(main(arguments))


@app.command()
def cockpit(
    bag: Annotated[
        str | None, typer.Option(help="also run the stack on this bag, in a loop; '': the bundled one")
    ] = None,
    port: Annotated[int, typer.Option(min=1024, max=65535, help="port of the page")] = 8088,
    host: Annotated[str, typer.Option(help="address of the page; beyond this machine with a token")] = "127.0.0.1",
    preset: Annotated[str, typer.Option(help="model preset")] = "tiny",
    namespace: Annotated[str, typer.Option(help="namespace of the running stack")] = "/sparseoccvla",
) -> None:
    """One web page of the running stack: see, ask and steer. Ctrl-C ends."""
    if bag is None:
        from sparseoccvla_ros.nodes.cockpit import main

        values = {"port": port, "host": f"'{host}'", "preset": f"'{preset}'"}
        arguments = [word for k, v in values.items() for word in ("-p", f"{k}:={v}")]
        raise typer.Exit(main(["--ros-args", "-r", f"__ns:={namespace}", *arguments]))
    from .launch import run_launch

    values = {"bag": bag, "loop": "true", "cockpit": "true", "cockpit_port": port, "cockpit_host": host}
    values |= {"preset": preset, "namespace": namespace}
    raise typer.Exit(run_launch([f"{k}:={v}" for k, v in values.items()], show_args=False, print_params=False))


@app.command()
def drive(
    seed: Annotated[int, typer.Option(min=0, help="seed of the world; 90000 to 99999 were never trained on")] = 90_000,
    scenario: Annotated[str, typer.Option(help="family of situations, as red_light; the seed's traffic if empty")] = "",
    out: Annotated[Path, typer.Option(help="folder for picture, recording, log and summary")] = Path("out/drive"),
    preset: Annotated[str, typer.Option(help="model preset")] = "tiny",
    seconds: Annotated[float, typer.Option(min=1.0, max=60.0, help="end after this much of the world's time")] = 60.0,
    real_time: Annotated[
        float, typer.Option(min=0.0, max=20.0, help="do not wait for the stack; world seconds per second")
    ] = 0.0,
    serve: Annotated[bool, typer.Option("--serve", help="show it live in a browser")] = False,
    cockpit: Annotated[bool, typer.Option("--cockpit", help="one page to see, ask and steer")] = False,
    port: Annotated[int, typer.Option(min=1024, max=65535, help="port of that page")] = 8088,
) -> None:
    """Let the stack drive itself through the synthetic world, over ROS topics. Ctrl-C ends.

    The world waits for every answer (lockstep), so a slow machine drives like a fast one; --real-time 1 does not wait.
    """
    from sparseoccvla_ros.bringup.run_drive import run_drive

    given = {"seed": str(seed), "scenario": scenario, "preset": preset, "lockstep": str(not real_time).lower()}
    given |= {"real_time_factor": str(real_time or 1.0), "serve": str(serve).lower(), "cockpit": str(cockpit).lower()}
    given |= {"cockpit_port": str(port)}
    raise typer.Exit(run_drive(out, given, {"longest": str(seconds)}))


class Runtime(StrEnum):
    """Client of `serve egodriver`."""

    ALPASIM = "alpasim"
    CARLA = "carla"


@serve_app.command()
def egodriver(
    preset: Annotated[str, typer.Option(help="model preset")] = "tiny",
    runtime: Annotated[Runtime, typer.Option(help="AlpaSim itself, or autoware_carla_scenario")] = Runtime.ALPASIM,
    host: Annotated[str, typer.Option(help="address, or unix:///PATH; 0.0.0.0 lets other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0 takes a free one")] = 50051,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    period: Annotated[float, typer.Option(min=0.05, max=1.0, help="simulated seconds between two plans")] = 0.5,
) -> None:
    """Serve the gRPC service egodriver to AlpaSim, its challenge or the CARLA scenario runner. Ctrl-C ends."""
    import logging

    from sparseoccvla_ros.serve.server import serve_egodriver

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    serve_egodriver(preset, runtime.value, host, port, device, period)
    os._exit(0)  # a normal exit would take seconds to unload torch


@serve_app.callback()
def serve() -> None:
    """Serve non-ROS interfaces of other projects."""


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing and what will be used."""
    from .doctor import run_doctor

    raise typer.Exit(run_doctor())


@app.command()
def bench(
    what: Annotated[
        str, typer.Argument(help="end_to_end, messages, occupancy, runtimes, world, soak, training, growth or hardware")
    ] = "end_to_end",
    bag: Annotated[Path | None, typer.Option(help="bag to play; the bundled world if not given")] = None,
    rate: Annotated[float, typer.Option(min=0.05, max=10.0, help="speed of playback, times real time")] = 1.0,
    preset: Annotated[str, typer.Option(help="model preset; hardware takes r50_600q if not given")] = "",
    hz: Annotated[str, typer.Option(help="end_to_end: more runs at these frame sets per second, as 2,5,10,20")] = "",
    variants: Annotated[
        bool, typer.Option(help="end_to_end: also composed, with default transports, equal priorities")
    ] = False,
    minutes: Annotated[float, typer.Option(min=0.1, max=1440.0, help="soak: minutes to run")] = 20.0,
    reduced: Annotated[bool, typer.Option(help="hardware: the same at a size that a laptop can compute")] = False,
    against: Annotated[
        str, typer.Option(help="occupancy: only a comparison with this preset, e.g. opus_t for opus_v2_t")
    ] = "",
    json: Json = None,
) -> None:
    """Measure latencies and rates."""
    from sparseoccvla_ros.core.errors import InvalidInput

    from .bench import Choices, run_bench

    try:
        rates = tuple(float(word) for word in hz.split(",") if word)
    except ValueError:
        raise InvalidInput("--hz", f"want numbers separated by commas, got {hz!r}") from None
    if not all(0.1 <= value <= 50 for value in rates):
        raise InvalidInput("--hz", f"want 0.1 .. 50, got {hz!r}")
    preset = preset or ("r50_600q" if what == "hardware" else "tiny")
    raise typer.Exit(run_bench(what, Choices(bag, rate, preset, rates, variants, minutes, reduced, against), json))


@app.command()
def fuzz(
    budget: Annotated[int, typer.Option(min=1, help="inputs to try, shared among the decoders")] = 20_000,
    seed: Annotated[int, typer.Option(help="seed of the inputs: the same seed gives the same ones")] = 0,
    decoder: Annotated[list[str] | None, typer.Option(help="only this one; may be given several times")] = None,
    out: Annotated[Path, typer.Option(help="folder for the inputs that were not refused as they should be")] = Path(
        "out/fuzz"
    ),
) -> None:
    """Feed damaged and hostile inputs to every decoder: images, bags, messages, weights, text.

    Prints a table per decoder. Every input must be read or refused; exits with 1 if one raised anything else, crashed,
    or took too long or too much memory (docs/faults.md).
    """
    from sparseoccvla_ros.faults.report import run_fuzz

    raise typer.Exit(run_fuzz(budget, seed, tuple(decoder or ()), out))


@app.command()
def storm(
    minutes: Annotated[float, typer.Option(min=0.5, max=1440.0, help="minutes to run")] = 10.0,
    seed: Annotated[int, typer.Option(help="seed of the faults: the same seed gives the same ones")] = 0,
    preset: Annotated[str, typer.Option(help="model preset")] = "tiny",
    json: Json = None,
) -> None:
    """Start the stack on the bundled bag, in a DDS domain of its own, and inject random faults.

    Every path is compared with what the source sent. Exits with 1 if a node did not recover, a path did not flag
    missing input, or a loss was not accounted for (docs/faults.md). Needs an idle machine: on a busy one plans come
    too late and are rejected.
    """
    from sparseoccvla_ros.faults.report import run_storm

    raise typer.Exit(run_storm(minutes, seed, preset, json))


@app.command()
def export(
    preset: Annotated[str, typer.Option(help="model preset")] = "tiny",
    runtime: Annotated[str, typer.Option(help="onnx, openvino or tensorrt")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="also copy the files, with a manifest, to this folder")] = None,
    bag: Annotated[Path | None, typer.Option(help="bag whose frames parity is verified on; the bundled one")] = None,
    precision: Annotated[
        str, typer.Option(help="precision of the image backbone: preset, float32 or bfloat16")
    ] = "preset",
) -> None:
    """Export the networks, verify them against torch on real frames, build engines and cache them."""
    from .export import run_export

    raise typer.Exit(run_export(preset, runtime, out, bag, precision))


def play(
    bag: Annotated[Path, typer.Argument(help="rosbag2 folder, or a single .mcap or .db3 file")],
    rate: Annotated[float, typer.Option(min=0.01, max=100.0, help="speed, times real time")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="start again at the end")] = False,
    start_offset: Annotated[float, typer.Option(min=0.0, help="skip this much at the start, in s")] = 0.0,
    duration: Annotated[float, typer.Option(min=0.0, help="stop after this much of the bag, in s; 0 plays all")] = 0.0,
    paused: Annotated[bool, typer.Option("--start-paused", help="wait for the ~/pause service")] = False,
) -> None:
    """Play a bag as live topics with /clock. Ctrl-C ends; ~/pause and ~/step are services."""
    from sparseoccvla_ros.bringup.supervisor import big_message_environment
    from sparseoccvla_ros.cli.console import one_line_errors
    from sparseoccvla_ros.data.bags.reader import BagReader
    from sparseoccvla_ros.nodes.bag_player import main as player

    with one_line_errors():
        BagReader(bag).close()
    os.environ.update(big_message_environment())
    values = {"bag": f"'{bag}'", "rate": rate, "loop": loop, "start_offset": start_offset, "duration": duration}
    values |= {"start_paused": paused, "wait_for": 0}
    arguments = [w for k, v in values.items() for w in ("-p", f"{k}:={str(v).lower() if isinstance(v, bool) else v}")]
    raise typer.Exit(player(["--ros-args", *arguments]))


@app.command()
def docs(
    serve: Annotated[bool, typer.Option("--serve", help="show the site while pages change; Ctrl-C ends")] = False,
    port: Annotated[int, typer.Option(min=1024, max=65535, help="serve: port on this machine")] = 8000,
) -> None:
    """Build the documentation site into out/site; warnings are errors."""
    import subprocess

    from sparseoccvla_ros.core.paths import share

    how = ["serve", "--dev-addr", f"127.0.0.1:{port}"] if serve else ["build", "--strict"]
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(sys.prefix, "docs"))])
    environment = {**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.call([sys.executable, "-m", "mkdocs", *how], cwd=share(), env=environment)
    if not done and not serve:
        typer.echo(f"{share('out', 'site', 'index.html')}")
    raise typer.Exit(done)


def complete_app() -> typer.Typer:
    """The app with all its groups of verbs, which are added once per process."""
    from sparseoccvla_ros.cli.bag import app as bag_app
    from sparseoccvla_ros.cli.data import app as data_app
    from sparseoccvla_ros.cli.eval import app as eval_app
    from sparseoccvla_ros.cli.models import app as models_app
    from sparseoccvla_ros.cli.rig import app as rig_app
    from sparseoccvla_ros.cli.train import app as train_app

    if not any(group.name == "train" for group in app.registered_groups):
        bag_app.command("play")(play)
        app.add_typer(train_app, name="train", help="Train a stage of a preset, or prepare the data for it.")
        app.add_typer(eval_app, name="eval", help="Evaluate a preset on drives it has not seen.")
        app.add_typer(bag_app, name="bag", help="Make, convert, inspect and play bags.")
        app.add_typer(rig_app, name="rig", help="Check the cameras of a vehicle or bag, or draft their profile.")
        app.add_typer(data_app, name="data", help="Check and prepare a nuScenes folder, or make one of the world.")
        app.add_typer(serve_app, name="serve")
        app.add_typer(models_app, name="models", help="Presets and public weights: list, fetch, convert.")
    return app


def main() -> int:
    """Entry point; prints InvalidInput (exit code 2) and RuntimeError (1) as one line instead of a traceback."""
    from sparseoccvla_ros.core.errors import InvalidInput, format_error

    # Handle SIGTERM like Ctrl-C, so that every started process is stopped.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return complete_app()(prog_name="./run") or 0
    except InvalidInput as error:
        print(f"error: {format_error(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
