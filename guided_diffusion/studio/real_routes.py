"""The routes of what is there already: real pairs, parts of their masks, good images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guided_diffusion.studio.answers import LISTED, json_answer, label_answer, routes_of
from guided_diffusion.studio.bodies import index_of, page_of, page_record
from guided_diffusion.studio.desk import Desk
from guided_diffusion.studio.guard import Refused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from guided_diffusion.pipelines.studio.workplace import Workplace

_PARTS = 96  # of a page of the shelf


class RealRoutes:
    """Answers what shows real images; files are read in threads."""

    def __init__(self, desk: Desk):
        self._desk = desk

    def routes(self) -> list[Route]:
        """Return the routes."""
        return routes_of(
            GET={
                "/api/pairs": self.pairs,
                "/api/pairs/{split}/{i}/image": self.pair_image,
                "/api/pairs/{split}/{i}/labels": self.pair_labels,
                "/api/parts": self.parts,
                "/api/parts/{i}": self.part,
                "/api/goods": self.goods,
                "/api/goods/{i}/image": self.good_image,
                "/api/goods/{i}/labels": self.good_labels,
            }
        )

    @property
    def _place(self) -> Workplace:
        return self._desk.workplace

    def _pair(self, request: Request) -> tuple[str, int]:
        split = request.path_params["split"]
        if split not in self._place.pairs.pairs:
            raise Refused(404, "there is no such split")
        return split, index_of(request.path_params["i"], len(self._place.pairs.pairs[split]))

    async def pairs(self, request: Request) -> Response:
        """Answer a page of the list of real pairs."""
        pairs = self._place.pairs
        split = request.query_params.get("split", self._place.config.data_split)
        if split not in pairs.pairs:
            raise Refused(404, "there is no such split")
        shown = page_of(request, LISTED, len(pairs.pairs[split]))

        def listed() -> list[dict[str, Any]]:
            named = [(index, pairs.pairs[split][index].stem) for index in shown]
            return [{"index": i, "name": name, "classes": pairs.classes(split, i)} for i, name in named]

        record = page_record(request, LISTED, len(pairs.pairs[split]))
        return json_answer({"split": split, **record, "pairs": await run_in_threadpool(listed)})

    async def pair_image(self, request: Request) -> Response:
        """Answer the image of a pair, as PNG."""
        return await self._png(self._place.pairs.image, *self._pair(request))

    async def pair_labels(self, request: Request) -> Response:
        """Answer the labels of a pair."""
        return label_answer(await run_in_threadpool(self._place.pairs.label, *self._pair(request)))

    async def parts(self, request: Request) -> Response:
        """Answer a page of the shelf."""
        parts = self._place.shelf.parts
        count = len(parts)
        listed = [
            {"index": index, "class": part.class_id, "size": list(part.mask.shape), "pair": part.pair}
            for index, part in ((index, parts[index]) for index in page_of(request, _PARTS, count))
        ]
        return json_answer({**page_record(request, _PARTS, count), "parts": listed})

    async def part(self, request: Request) -> Response:
        """Answer the mask of a part, 0 and 1."""
        parts = self._place.shelf.parts
        return label_answer(parts[index_of(request.path_params["i"], len(parts))].mask.view("u1"))

    async def goods(self, request: Request) -> Response:
        """Answer a page of the list of good images."""
        goods = self._place.goods
        shown = page_of(request, LISTED, len(goods.images))

        def listed() -> list[dict[str, Any]]:
            return [{"index": i, "name": goods.images[i].stem, "size": goods.size(i)} for i in shown]

        record = page_record(request, LISTED, len(goods.images))
        return json_answer({**record, "goods": await run_in_threadpool(listed)})

    def _good(self, request: Request) -> int:
        return index_of(request.path_params["i"], len(self._place.goods.images))

    async def good_image(self, request: Request) -> Response:
        """Answer a good image at the scale of the network, as PNG."""

        def picture(index: int) -> NDArray[np.uint8]:
            base = self._place.goods.of(index)
            return base.picture(base.pixels)

        return await self._png(picture, self._good(request))

    async def good_labels(self, request: Request) -> Response:
        """Answer the labels of a good image before anything is painted."""
        index = self._good(request)
        return label_answer(await run_in_threadpool(lambda: self._place.goods.of(index).canvas_label))

    async def _png(self, picture: Callable[..., NDArray[np.uint8]], *which: Any) -> Response:
        def made() -> bytes:
            from guided_diffusion.pipelines.studio.drawing import png_of

            return png_of(picture(*which), quick=True)

        return Response(await run_in_threadpool(made), media_type="image/png")
