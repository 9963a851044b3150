"""Every condition keeps the protocol that data, training and samplers rely on."""

from __future__ import annotations

import pytest
import torch

from guided_diffusion.conditions.base import Condition
from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.conditions.semantic_map import SemanticMap

CONDITIONS = {
    "mask": SemanticMap(torch.arange(4)[:, None, None].expand(4, 6, 8), 4),
    "mask with edges": SemanticMap(torch.arange(4)[:, None, None].expand(4, 6, 8), 4, torch.ones(4, 6, 8) > 0),
    "boxes": LayoutCondition(torch.arange(12).view(4, 3) % 5, torch.rand(4, 3, 4), torch.randn(4, 3, 2), 4, (6, 8)),
    "none": NoCondition(4, (6, 8)),
}


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_protocol(condition: Condition):
    assert (len(condition), condition.size, condition.device) == (4, (6, 8), torch.device("cpu"))
    for part, count in ((slice(1, 3), 2), (slice(0, 9), 4), (torch.tensor([3, 0, 0]), 3), (torch.arange(4) > 2, 1)):
        assert len(condition[part]) == count
        assert condition[part].size == (6, 8)
    assert len(condition.drop(torch.tensor([True, False, True, False]))) == 4
    assert len(condition.null()) == 4
    assert len(type(condition).cat([condition, condition[:1]])) == 5
    assert condition.to("meta").device == torch.device("meta")
