"""ament_python package; torch, transformers and what else rosdep lacks come from requirements/base.txt."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "sparseoccvla_ros"
SHARED = ("launch", "config", "rviz", "models", "bags", "examples")
NODES = ("camera_sync", "occupancy", "reasoning", "planning", "composed", "bag_player", "viewer", "cockpit", "follower")


def installed(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below a folder, for share/<package>/<folder>."""
    groups: dict[str, list[str]] = {}
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            groups.setdefault(f"share/{NAME}/{file.parent.as_posix()}", []).append(file.as_posix())
    return list(groups.items())


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["**/*.yaml", "view/cockpit/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *(entry for folder in SHARED for entry in installed(folder)),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"], "viz": ["rerun-sdk"]},
    zip_safe=False,
    maintainer="sparseoccvla_ros maintainers",
    maintainer_email="maintainers@users.noreply.github.com",
    description="Six cameras in; semantic occupancy, language and a planned path out.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [f"{node} = {NAME}.nodes.{node}:main" for node in NODES]
        + [f"cli = {NAME}.cli.__main__:main"],
    },
)
