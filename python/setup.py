"""Builds libtrine.so with cargo, and packs it into the wheel.

The wheel holds no code that is compiled against Python, so one serves every Python 3 of a platform: py3-none-PLATFORM.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent.parent


def version() -> str:
    text = (ROOT / "Cargo.toml").read_text()
    found = re.search(r'\[workspace\.package\]\nversion = "(.+)"', text)
    assert found, "Cargo.toml says the version"
    return found[1]


class BuildPy(build_py):
    """Also the library. TRINE_ARCHIVE names one that cargo has built already: see ffi/install.sh."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.add_library(Path(self.build_lib, "trine"))
        else:
            self.add_library(Path(__file__).parent / "trine")

    def add_library(self, to: Path) -> None:
        name = "libtrine.so." + version().split(".")[0]
        with tempfile.TemporaryDirectory() as prefix:
            subprocess.run([ROOT / "ffi/install.sh", prefix], check=True)
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.join(prefix, "lib", name), to / name)


class BdistWheel(bdist_wheel):
    def get_tag(self) -> "tuple[str, str, str]":
        return "py3", "none", super().get_tag()[2]


class Platform(Distribution):
    """Not for every platform: it holds a library."""

    def has_ext_modules(self) -> bool:
        return True


setup(version=version(), distclass=Platform, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
