"""What reads the images of `segment`: a network, and how files become what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.data.datasets import image_tensor
from guided_diffusion.data.files import open_image
from guided_diffusion.data.intensity import ImageRange
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.options import BoxOptions, SourceOptions
from guided_diffusion.data.tiles import Tile, tiles_of
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.features.extractor import FeatureExtractor, ImageValues
from guided_diffusion.features.options import DIFFUSION, FeatureOptions
from guided_diffusion.labeling.files import PixelClassifier
from guided_diffusion.labeling.labels import resize_image
from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.state_dict import infer_architecture
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.features import features_of_checkpoint, published_features
from guided_diffusion.pipelines.sample_misfits import refuse_idle
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.errors import CheckpointError, ConfigError

PUBLISHED_SIDE = 256  # of images for SwAV


@dataclass(frozen=True)
class ImageReader:
    """Reads image files as the extractor takes them: tile by tile.

    as_published: by Pillow's bilinear filter, and labels at the size of the network, as DDPM-seg has them.
    """

    extractor: FeatureExtractor
    transform: JointTransform
    image_range: ImageRange
    as_published: bool = False

    @property
    def channels(self) -> Literal[1, 3]:
        return 1 if self.extractor.image_channels == 1 else 3

    def tiles(self, size: Size) -> list[Tile]:
        """Return the tiles of an image of `size` (height, width)."""
        return tiles_of(size, self.transform)

    def pixels(self, path: str, tiles: Sequence[Tile], *, upright: bool = True) -> Tensor:
        """Return what the network takes of an image, [tiles, C, H, W] in [-1, 1]; DataError if it cannot be read."""
        return self.of_picture(open_image(path, upright=upright), tiles, path)

    def of_picture(self, picture: Image.Image, tiles: Sequence[Tile], source: str) -> Tensor:
        """Return the same of a decoded picture; errors name `source`."""
        if self.as_published:
            return torch.from_numpy(resize_image(picture, self.extractor.image_size))[None]
        image = image_tensor(picture, self.channels, source, self.image_range)
        return torch.stack([tile.placement.image(image) for tile in tiles]).float() / 127.5 - 1

    def views(
        self, pixels: Tensor, positions: Sequence[int], tiles: Sequence[Tile], *, flip: bool
    ) -> list[list[ImageMaps]]:
        """Return all maps of each tile, over which probabilities are averaged: under each noise, and with `flip` of the
        mirror image, too.
        """
        read = [
            self.maps(pixels, positions, tiles, mirrored=mirrored, draw=draw)
            for mirrored in (False, True)[: 1 + flip]
            for draw in range(self.extractor.noise_draws)
        ]
        return [list(each) for each in zip(*read, strict=True)]

    def maps(
        self,
        pixels: Tensor,
        positions: Sequence[int],
        tiles: Sequence[Tile],
        *,
        mirrored: bool = False,
        draw: int = 0,
    ) -> list[ImageMaps]:
        """Return the maps of each tile; mirrored: those of its mirror image, mirrored back.

        positions: of each tile, on which noise depends that images do not share. draw: which of the noises.
        """
        found = self.extractor.maps(pixels.flip(-1) if mirrored else pixels, positions, draw)
        if mirrored:
            found = [each.flip(-1) for each in found]
        return [ImageMaps([each[row] for each in found], tile.box.size) for row, tile in enumerate(tiles)]

    def values(self) -> ImageReader:
        """Return the reader whose features are the values of the pixel alone, for comparison."""
        own = ImageValues(self.extractor.image_size, self.extractor.image_channels)
        return ImageReader(own, self.transform, self.image_range, self.as_published)

    def settings(self) -> dict[str, Any]:
        """Return all that features depend on beside the files, in plain values."""
        image_range = self.image_range if isinstance(self.image_range, str) else list(self.image_range)
        read = {"resize": self.transform.resize, "scale": self.transform.scale, "image_range": image_range}
        return {**self.extractor.settings(), **read, "as_published": self.as_published}


def open_reader(
    config: SegmentConfig, device: torch.device, trained_with: PixelClassifier | None = None
) -> ImageReader:
    """Return what reads the images that `config` names; UserError for a network that cannot be used.

    trained_with: a classifier, which is to read images as it was trained.
    """
    features, seed = config.features, config.seed
    settings = {"device": device, "precision": config.precision.precision}
    if features.extractor == DIFFUSION:
        checkpoint = load_checkpoint(find_checkpoint(config.weights.model_path, prefer=BEST))
        trained = _options_of_network(checkpoint, config)
        refuse_latents(checkpoint, trained)
        extractor = features_of_checkpoint(
            features, checkpoint, trained, weights=config.weights.weights, seed=seed, **settings
        )
        geometry = trained.geometry
    else:
        geometry = config.geometry
        size = height_width(geometry.image_size or PUBLISHED_SIDE)
        extractor = published_features(
            features, image_size=size, image_channels=geometry.image_channels or 3, **settings
        )
    recipe = config.classifier.recipe
    if trained_with is not None:
        recipe = trained_with.training.get("recipe", recipe)
    published = recipe == "published" and extractor.image_channels == 3
    # Published images are squares; all others are shown whole, one way or another.
    resize = config.geometry.resize or ("squash" if published else geometry.resize or "squash")
    if resize != "window" and config.geometry.scale not in (None, 1):
        line = f"scale is {config.geometry.scale:g}, but resize is {resize}, which gives all images the size image_size"
        raise ConfigError.of_keys(("scale", f"{line}: set resize to window, or leave scale out"))
    scale = geometry.scale or 1.0
    transform = JointTransform(extractor.image_size, resize, scale=scale, random_flip=False, train=False)
    return ImageReader(extractor, transform, geometry.image_range or "auto", published and resize == "squash")


def reader_as_trained(extractor: FeatureExtractor, trained_with: PixelClassifier, *, drawn: bool) -> ImageReader:
    """Return what reads images as a classifier was trained to read them; drawn: by the extractor's own network, which
    sees them as they are.
    """
    features = {} if drawn else trained_with.features
    resize, scale = features.get("resize", "squash"), features.get("scale", 1.0)
    transform = JointTransform(extractor.image_size, resize, scale=scale, random_flip=False, train=False)
    published = trained_with.training.get("recipe") == "published" and extractor.image_channels == 3
    return ImageReader(extractor, transform, "full", published and resize == "squash")


def features_as_trained(features: FeatureOptions, trained_with: PixelClassifier) -> FeatureOptions:
    """Return the options of features that a classifier was trained with, where none are given."""
    before = trained_with.training.get("feature_options", {})
    known = {key: before[key] for key in FeatureOptions.model_fields if key in before}
    given = {key: getattr(features, key) for key in features.model_fields_set}
    # Another network is refused by its features: it is named, and not taken over.
    here = {key: getattr(features, key) for key in ("extractor", "extractor_weights", "feature_cache")}
    return FeatureOptions(**{**known, **given, **here})


def as_trained(config: SegmentConfig, trained_with: PixelClassifier) -> SegmentConfig:
    """Return `config` with the steps, blocks and noise that a classifier was trained with, where it gives no others."""
    if "seed" not in config.given:
        config = config.replaced(seed=trained_with.training.get("seed", config.seed))
    return config.model_copy(update={"features": features_as_trained(config.features, trained_with)})


def refuse_sides(names: Sequence[str], source: SourceOptions) -> None:
    """Raise ConfigError where classes change places in a mirror image, of which `flip` would average what is said."""
    pairs = flip_pairs(names, source.flip_pairs)
    if pairs:
        first, second = (names[index] for index in pairs[0])
        line = f"flip is true, but {first!r} and {second!r} change places in a mirror image: set flip to false"
        raise ConfigError.of_keys(("flip", line))


def refuse_latents(checkpoint: Checkpoint, trained: TrainedConfig) -> None:
    """Raise CheckpointError for a model of latents, whose features are those of no image."""
    if trained.latents.latent is not None:
        found = "a model of latents, whose features are not read"
        raise CheckpointError.of(checkpoint.path, found, "give a model of images")


def _options_of_network(checkpoint: Checkpoint, config: SegmentConfig) -> TrainedConfig:
    """Return the options of the network; dataset_mode and num_classes are those of the labels, not of its training.

    Bare weights of a network that takes masks do not tell them: then they are taken for those of its training.
    """
    reasons = {"mask_resize": "masks are read at their own size"}
    reasons |= dict.fromkeys(BoxOptions.keys(), "segment makes no use of boxes")
    refuse_idle(config, checkpoint, reasons)
    bare = checkpoint.is_bare and infer_architecture(checkpoint.model, source=str(checkpoint.path)).condition != "none"
    if not bare:
        config = config.replaced(dataset_mode="", num_classes=None)
    return trained_config(checkpoint, config)
