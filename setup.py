"""ament_python package; torch, transformers and what else rosdep lacks come from requirements/base.txt.

Name, authors and extras stand in pyproject.toml, the version in package.xml; here is what ROS installs beside Python.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import find_packages, setup

NAME = "sparseoccvla_ros"
SHARED = ("launch", "config", "rviz", "models", "bags")
NODES = (
    "camera_sync",
    "occupancy",
    "reasoning",
    "planning",
    "composed",
    "bag_player",
    "viewer",
    "cockpit",
    "follower",
    "simulator",
)


def installed(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below a folder, for share/<package>/<folder>."""
    groups: dict[str, list[str]] = {}
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            groups.setdefault(f"share/{NAME}/{file.parent.as_posix()}", []).append(file.as_posix())
    return list(groups.items())


setup(
    name=NAME,
    version=ElementTree.parse("package.xml").findtext("version"),
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["**/*.yaml", "view/cockpit/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *(entry for folder in SHARED for entry in installed(folder)),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="sparseoccvla_ros maintainers",
    maintainer_email="maintainers@users.noreply.github.com",
    entry_points={
        "console_scripts": [f"{node} = {NAME}.nodes.{node}:main" for node in NODES]
        + [
            f"nav2_follow_path = {NAME}.ros.adapters.nav2_follow_path:main",
            f"cli = {NAME}.cli.__main__:main",
        ],
    },
)
