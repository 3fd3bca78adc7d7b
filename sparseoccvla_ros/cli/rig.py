"""The verbs of `./run rig`: check of a camera rig, draft of its profile. Heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .console import one_line_errors, wide_console

if TYPE_CHECKING:
    from ..camera_sync.rig.check import RigReport

app = typer.Typer(no_args_is_help=True, help="Check the cameras of a vehicle or bag, or draft their profile.")


@app.command()
def check(
    bag: Annotated[Path | None, typer.Argument(help="bag; the topics of the running vehicle if not given")] = None,
    profile: Annotated[str, typer.Option(help="a name in config/profiles, or a .yaml file")] = "nuscenes",
    calibration_file: Annotated[str, typer.Option(help="intrinsics and mounts that are on no topic")] = "",
    preset: Annotated[str, typer.Option(help="model preset, whose image size counts")] = "tiny",
    seconds: Annotated[float, typer.Option(min=0.5, max=600.0, help="seconds to look at")] = 10.0,
    out: Annotated[Path, typer.Option(help="picture of the coverage")] = Path("out/rig.png"),
) -> None:
    """Report per camera its images, the part that the encoder uses, and problems; exits with 1 if there are any."""
    with one_line_errors():
        from ..camera_sync.profiles import profile as load_profile
        from ..runtime.presets import load_preset
        from ..view.rig_picture import rig_picture
        from ..view.scene_picture import save_png

        chosen, image = load_profile(profile), load_preset(preset).image
        if bag is None:
            from ..bringup.live_rig import check_live

            report = check_live(chosen, image, seconds, calibration_file)
        else:
            from ..data.bags.rig_on_bag import check_bag

            report = check_bag(bag, chosen, image, seconds, calibration_file)
        save_png(out, rig_picture(report))
    _print(report, out)
    raise typer.Exit(1 if report.lines() else 0)


@app.command()
def draft(
    bag: Annotated[Path, typer.Argument(help="rosbag2 folder, or a single .mcap or .db3 file")],
    out: Annotated[Path | None, typer.Option(help="file to write; standard output if not given")] = None,
) -> None:
    """Draft a profile from the topics and transforms of a bag, and list what was assumed."""
    with one_line_errors():
        from ..core.errors import InvalidInput
        from ..data.bags.rig_on_bag import draft_profile

        if out is not None and out.exists():
            raise InvalidInput("out", f"{out} exists already")
        made = draft_profile(bag)
        if out is None:
            typer.echo(made.text, nl=False)
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(made.text, encoding="utf-8")
            typer.echo(f"wrote {out}; next: ./run rig check {bag} --profile {out}", err=True)
        for note in made.notes:
            typer.echo(f"note: {note}", err=True)


def _print(report: RigReport, picture: Path) -> None:
    from ..view.rig_picture import blind_directions, coverage

    console = wide_console(160)
    table = Table(title=f"{report.profile.name}: {len(report.cameras)} cameras")
    for head in ("camera", "images", "Hz", "stamps ms", "lens", "size", "lens deg", "used deg", "place m", "looks deg"):
        table.add_column(head)
    for c in report.cameras:
        mount, size = c.camera2ego, f"{c.size[0]}x{c.size[1]}" if c.lens else "?"
        place = "?" if mount is None else " ".join(f"{v:.2f}" for v in mount[:3, 3])
        table.add_row(
            c.name, str(c.images), f"{c.rate:.1f}", f"{c.lag_ms:+.0f}", c.lens or "?", size,
            f"{c.lens_deg:.0f}", f"{c.used_deg:.0f}", place, "?" if c.heading_deg is None else f"{c.heading_deg:+.0f}",
        )  # fmt: skip
    console.print(table)
    p50, most = report.spread_ms
    console.print(
        f"{report.sets} frame sets, {report.complete} with every camera; their stamps spread {p50:.0f} ms (median), "
        f"{most:.0f} ms (most)"
    )
    share = float((coverage(report.cameras) > 0).mean())
    console.print(
        f"the encoder is shown {len(report.cameras)} x {report.image.width}x{report.image.height} px: "
        f"{100 * share:.0f} % of the ground within 40 m ahead, behind and beside"
    )
    for first, last in blind_directions(report.cameras):
        console.print(f"  nobody looks from {first:+d} to {last:+d} degrees (left positive)")
    for line in report.lines():
        console.print(f"[bold red]wrong:[/] {line}", highlight=False)
    if not report.lines():
        console.print("nothing is wrong")
    console.print(f"from above: {picture}")
