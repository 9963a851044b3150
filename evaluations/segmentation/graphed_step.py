"""Optimization steps of one shape as a CUDA graph: starting a thousand small kernels takes longer than running them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluations.segmentation.models import InputForm
from evaluations.segmentation.training import SegmentationLoss, network_input, update

EAGER_STEPS = 3
"""Steps before the graph, in which libraries choose their kernels and the optimizer makes its state."""


class GraphedStep:
    """Changes a model on a GPU batch by batch; all batches have the shape of the first one.

    The optimizer is capturable. A model that cannot be captured, as it waits for the device, is trained without a
    graph. Set learning rates by `set_rates`: the graph reads them from the device.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: SegmentationLoss, form: InputForm
    ) -> None:
        self.model, self.optimizer, self.loss_of, self.form = model, optimizer, loss_of, form
        self.device = next(model.parameters()).device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._may_capture = True
        self._steps = 0
        self._stream = torch.cuda.Stream(self.device)
        for group in optimizer.param_groups:
            group["lr"] = torch.zeros((), device=self.device)

    def set_rates(self, share: float) -> None:
        """Set each learning rate to a share of the largest one of its group."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(share * group["largest"])

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take one step on uint8 [N, H, W, 3] and int64 [N, H, W]; return the loss, valid until the next step."""
        pixels, labels = network_input(images, self.device, self.form), labels.to(self.device)
        self._steps += 1
        if self._graph is None and (self._steps <= EAGER_STEPS or not self._captured(pixels, labels)):
            return self._eager(pixels, labels)
        self._pixels.copy_(pixels)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._loss

    def _eager(self, pixels: Tensor, labels: Tensor) -> Tensor:
        # Not on the usual stream, whose memory a graph could not take over.
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = update(self.model, self.optimizer, self.loss_of, pixels, labels)
        current.wait_stream(self._stream)
        return loss

    def _captured(self, pixels: Tensor, labels: Tensor) -> bool:
        """Capture a step, which changes nothing yet; return whether that went well."""
        if not self._may_capture:
            return False
        self._pixels, self._labels = pixels.clone(), labels.clone()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._loss = update(self.model, self.optimizer, self.loss_of, self._pixels, self._labels)
        except RuntimeError:
            self._may_capture = False
            return False
        self._graph = graph
        return True
