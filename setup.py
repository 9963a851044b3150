"""What pyproject.toml cannot say: the folder configs/ becomes a part of the package when a wheel is built."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
TARGET = Path("guided_diffusion", "configs")


class BuildWithConfigs(build_py):
    """Copies configs/ beside the modules; an editable installation reads it where it lies."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self.configs().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def configs(self) -> dict[Path, Path]:
        """Return each file of configs/ with where it goes."""
        files = [path for path in sorted((HERE / "configs").rglob("*")) if path.is_file()]
        return {path: Path(self.build_lib) / TARGET / path.relative_to(HERE / "configs") for path in files}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self.configs().values())]


setup(cmdclass={"build_py": BuildWithConfigs})
