"""`python main.py <action> -c config.json`: hands over to the command line of the library.

It is parsed by Pythons that are too old for the library, to say so.
"""

import sys

OLDEST = (3, 11)
PACKAGES = {
    "torch", "torchvision", "numpy", "PIL", "blobfile", "pydantic", "tqdm", "matplotlib", "safetensors", "scipy",
    "psutil", "filelock", "jinja2", "segmentation_models_pytorch", "timm", "huggingface_hub", "torch_fidelity", "lpips",
    "defusedxml", "yaml", "starlette", "uvicorn",
}  # fmt: skip
"""What pyproject.toml needs, by the names that are imported. Any other module that is missing is a bug."""


def run(arguments):
    """Return the exit code; 2 with one line where Python is too old or a package is not installed."""
    if sys.version_info < OLDEST:
        needed, found = (".".join(map(str, version[:2])) for version in (OLDEST, sys.version_info))
        return _refused(f"Python {needed} or newer is needed, this is {found}: activate the environment, or make one")
    try:
        from guided_diffusion.cli import main

        return main(arguments)
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        remedy = "activate the environment, or install with pip install -e ."
        return _refused(f"{error.name} is not installed here: {remedy}")


def _refused(line):
    print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
