"""Training of all members of an ensemble at once, which a killed process resumes exactly."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guided_diffusion.labeling.classifier import PixelEnsemble
from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.labeling.pixels import PixelPool, Pixels, read_features, standardization
from guided_diffusion.labeling.recipes import Recipe, StoppingRule
from guided_diffusion.runtime.checkpoint import read_content, save_checkpoint
from guided_diffusion.runtime.errors import CheckpointError, DataError
from guided_diffusion.runtime.seeding import Stream, derive_seed

STATE_FORMAT = "isdm_pixel_fit"
STANDARDIZED_ON = 16384  # pixels


class Fit:
    """A fit of `members` classifiers on images, their maps and labeled pixels.

    Pixels of a step are a function of (seed, step, member), and in the published recipe of (seed, epoch, member): the
    result does not depend on where it was interrupted. device: of the ensemble; the maps stay where they are.
    """

    def __init__(
        self,
        images: Sequence[ImageMaps],
        pool: PixelPool,
        recipe: Recipe,
        *,
        members: int = 10,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        assert pool.sizes == [maps.size for maps in images], "labels must be of the sizes of their images"
        assert len({tuple(maps.dims) for maps in images}) == 1, "images must have the same features"
        self.images, self.pool, self.recipe, self.seed = images, pool, recipe, seed
        self.device = torch.device(device)
        self.total = recipe.total_steps(len(pool))
        if self.total == 0:
            found = f"{len(pool)} labeled pixels, fewer than the {recipe.batch} of a step"
            raise DataError.of("labeled images", found, "label more pixels, or take recipe fast")
        dim = images[0].dim
        self.ensemble = PixelEnsemble(members, dim, pool.classes, seed=seed).to(self.device)
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(self.ensemble.parameters(), lr=recipe.lr, fused=fused)
        self.step = 0
        self.rules = [StoppingRule(recipe.steps_per_epoch(len(pool))) for _ in range(members)]
        self._stopped: dict[int, dict[str, Tensor]] = {}  # weights of the members that have stopped
        self._orders: tuple[int, list[Tensor]] = (-1, [])  # of the pixels in an epoch
        self._features = torch.empty(members * recipe.batch, dim, device=self.device)
        self._adjustment = pool.log_ratio(recipe.batch).to(self.device) if recipe.balance else None
        self._standard: tuple[Tensor, Tensor] | None = None
        if recipe.standardize:
            pixels = pool.uniform(STANDARDIZED_ON, self._generator())
            self._standard = tuple(each.to(self.device) for each in standardization(images, pixels))

    @property
    def done(self) -> bool:
        """Whether all steps are done, or all members have stopped."""
        return self.step >= self.total or len(self._stopped) == self.ensemble.members

    def run(
        self,
        state_path: Path | None = None,
        *,
        save_seconds: float = 60.0,
        progress: Callable[[int, int, float], None] = lambda step, total, loss: None,
    ) -> PixelEnsemble:
        """Do the steps left and return the ensemble, in evaluation mode.

        state_path: where the state is saved every `save_seconds` and at the end, and resumed from if it is there.
        progress: called with the steps done, the most steps, and the mean loss of the members.
        """
        if state_path is not None and state_path.exists():
            self.load(state_path)
        saved = time.monotonic()
        while not self.done:
            loss = self.train_step()
            progress(self.step, self.total, loss)
            if state_path is not None and (self.done or time.monotonic() - saved >= save_seconds):
                self.save(state_path)
                saved = time.monotonic()
        return self.result()

    def result(self) -> PixelEnsemble:
        """Return the ensemble as it is now, the stopped members as they stopped, for features as they are read."""
        members = self.ensemble.members
        result = PixelEnsemble(members, self.ensemble.dim, self.ensemble.classes, seed=self.seed).to(self.device)
        result.load_state_dict(self.ensemble.state_dict())
        for member, weights in self._stopped.items():
            result.load_member(member, weights)
        if self._standard is not None:
            result.fold_standardization(*self._standard)
        return result.eval()

    def train_step(self) -> float:
        """Train every member on its own pixels; return the mean loss of the members that have not stopped."""
        pixels = self._draw()
        read_features(self.images, pixels, self._features)
        if self._standard is not None:
            self._features.sub_(self._standard[0]).mul_(self._standard[1])
        self.ensemble.train()
        losses = self._losses(pixels)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimizer.step()
        running = [loss for member, loss in enumerate(losses.tolist()) if member not in self._stopped]
        self._apply_rules(losses.tolist())
        self.step += 1
        return sum(running) / len(running)

    def _losses(self, pixels: Pixels) -> Tensor:
        """Return the mean cross entropy of each member [M]: members share nothing, so its sum trains each alone."""
        members = self.ensemble.members
        logits = self.ensemble(self._features.view(members, self.recipe.batch, -1))
        if self._adjustment is not None:
            logits = logits + self._adjustment
        entropy = F.cross_entropy(logits.flatten(0, 1), pixels.label.to(self.device), reduction="none")
        return entropy.view(members, -1).mean(dim=1)

    def _apply_rules(self, losses: Sequence[float]) -> None:
        if self.recipe.name != "published":
            return
        for member, (rule, loss) in enumerate(zip(self.rules, losses, strict=True)):
            # The others go on, and a batched step changes the weights of all.
            if member not in self._stopped and rule.after(self.step, loss):
                self._stopped[member] = self.ensemble.member_weights(member)

    def _draw(self) -> Pixels:
        if self.recipe.name == "published":
            return self.pool.take(self._shuffled())
        draw = self.pool.balanced if self.recipe.balance else self.pool.uniform
        parts = [draw(self.recipe.batch, self._generator(self.step, member)) for member in range(self.ensemble.members)]
        return Pixels(*(torch.cat([getattr(part, name) for part in parts]) for name in ("image", "position", "label")))

    def _shuffled(self) -> Tensor:
        """Return the pixels of each member in this step of its epoch, [M * batch]."""
        epoch, place = divmod(self.step, self.recipe.steps_per_epoch(len(self.pool)))
        if self._orders[0] != epoch:
            generators = [self._generator(epoch, member) for member in range(self.ensemble.members)]
            orders = [torch.randperm(len(self.pool), generator=each, dtype=torch.int32) for each in generators]
            self._orders = epoch, orders
        batch = slice(place * self.recipe.batch, (place + 1) * self.recipe.batch)
        return torch.cat([order[batch] for order in self._orders[1]]).long()

    def _generator(self, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(Stream.PIXEL, self.seed, *key))

    # ------------------------------------------------------------------------------------------------ its state

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a saved state to be resumed."""
        return {
            "members": self.ensemble.members,
            "dim": self.ensemble.dim,
            "images": len(self.images),
            "labels": self.pool.digest,
            "seed": self.seed,
            "recipe": dataclasses.asdict(self.recipe),
        }

    def save(self, path: Path) -> None:
        """Replace the file of the state atomically."""
        content = {
            "format": STATE_FORMAT,
            "identity": self._identity(),
            "step": self.step,
            "ensemble": self.ensemble.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rules": [dataclasses.asdict(rule) for rule in self.rules],
            "stopped": self._stopped,
        }
        save_checkpoint(path, content)

    def load(self, path: Path) -> None:
        """Take a saved state; CheckpointError if it is of something else or of other settings."""
        content = read_content(path)
        if not isinstance(content, dict) or content.get("format") != STATE_FORMAT:
            raise CheckpointError.of(path, "not the state of a pixel classifier's training", "delete this file")
        for key, value in self._identity().items():
            if content["identity"].get(key) != value:
                found = f"the state of a training with other {key}"
                raise CheckpointError.of(path, found, "delete this file, or choose another output_dir")
        self.step = content["step"]
        self.ensemble.load_state_dict(content["ensemble"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.rules = [StoppingRule(**rule) for rule in content["rules"]]
        self._stopped = content["stopped"]
