"""What is published: the files of a wheel, its metadata, and the example configs of an installed package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

from guided_diffusion import __version__
from guided_diffusion.config.load import ACTIONS, read_config_file, read_keys
from guided_diffusion.config.shipped import found_config, shipped_configs
from guided_diffusion.runtime.errors import ConfigError

ROOT = Path(__file__).parents[1]
PACKAGES = ("guided_diffusion", "evaluations")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """A wheel of this tree, built of a copy as building leaves files behind."""
    pytest.importorskip("setuptools", minversion="77")
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run(
        [sys.executable, "-c", BUILD, target], cwd=source, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (file,) = target.glob("*.whl")
    return zipfile.ZipFile(file)


def files_below(folder: Path) -> set[str]:
    """Return the files below a folder, relative to it."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_a_wheel_has_all_modules_and_what_they_read(wheel):
    there = set(wheel.namelist())
    for package in PACKAGES:
        wanted = {f"{package}/{name}" for name in files_below(ROOT / package) if not name.endswith(".md")}
        assert wanted <= there, f"missing: {sorted(wanted - there)}"
    assert "guided_diffusion/py.typed" in there
    assert {name.split("/")[0] for name in there} == {*PACKAGES, f"isdm-{__version__}.dist-info"}


@pytest.mark.slow
def test_a_wheel_has_the_example_configs_and_schemas(wheel):
    there, configs = set(wheel.namelist()), files_below(ROOT / "configs")
    assert {f"schema/{action}.json" for action in ACTIONS} <= configs
    assert {f"guided_diffusion/configs/{name}" for name in configs} <= there
    for name in ("config_train.json", "schema/train.json"):
        assert wheel.read(f"guided_diffusion/configs/{name}") == (ROOT / "configs" / name).read_bytes()


def test_its_metadata_say_what_it_is(wheel):
    metadata = message_from_bytes(wheel.read(f"isdm-{__version__}.dist-info/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("isdm", __version__)
    assert metadata["License-Expression"] == "MIT"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert b"isdm = guided_diffusion.cli:main" in wheel.read(f"isdm-{__version__}.dist-info/entry_points.txt")
    assert (ROOT / "LICENSE").read_bytes() == wheel.read(f"isdm-{__version__}.dist-info/licenses/LICENSE")


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (__version__, project["license"])
    assert [each["name"] for each in citation["authors"]] == [each["name"] for each in project["authors"]]


class TestExamples:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_they_are_found_from_any_folder(self, isdm):
        path = Path("configs/config_check.json")
        assert found_config(path) == shipped_configs() / "config_check.json"
        assert read_config_file(path)["$schema"]
        assert read_keys("check", path)[0]["data_dir"]
        code, shown, errors = isdm("check", path)
        assert code == 2  # there is no dataset
        assert errors
        assert f"note: {path} is the example that isdm brings along" in shown

    def test_what_lies_here_comes_first(self):
        Path("configs").mkdir()
        path = Path("configs/config_check.json")
        path.write_text("{}")
        assert found_config(path) == path
        assert read_config_file(path) == {}

    @pytest.mark.parametrize("name", ["config_check.json", "configs/none.json", "configs/../configs/config_check.json"])
    def test_other_names_are_not_looked_up(self, name):
        assert found_config(Path(name)) == Path(name)
        with pytest.raises(ConfigError, match="cannot be read"):
            read_config_file(name)

    def test_a_base_may_be_one(self):
        Path("mine.json").write_text('{"base": "configs/config_train.json", "batch_size": 3}')
        keys, _ = read_keys("train", "mine.json")
        assert keys["batch_size"] == 3
        assert keys["num_channels"] == read_config_file("configs/config_train.json")["num_channels"]
