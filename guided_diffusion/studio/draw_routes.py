"""The routes of what is made: draws, their images, and those of them that were accepted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guided_diffusion.studio.answers import LISTED, json_answer, label_answer, routes_of
from guided_diffusion.studio.bodies import (
    AcceptBody,
    DrawBody,
    DrawHead,
    GoodHead,
    PairHead,
    index_of,
    json_body,
    page_of,
    page_record,
)
from guided_diffusion.studio.desk import Desk
from guided_diffusion.studio.guard import Refused
from guided_diffusion.studio.streams import event_stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from guided_diffusion.pipelines.studio.drawing import Candidate, GoodRef, PairRef, Wish
    from guided_diffusion.pipelines.studio.workplace import Workplace


class DrawRoutes:
    """Answers what draws and accepts; images are read and made in threads."""

    def __init__(self, desk: Desk):
        self._desk = desk

    def routes(self) -> list[Route]:
        """Return the routes."""
        return routes_of(
            GET={
                "/api/draws/{id}/events": self.draw_events,
                "/api/draws/{id}/hole": self.draw_hole,
                "/api/draws/{id}/{j}/image": self.draw_image,
                "/api/draws/{id}/{j}/predicted": self.draw_predicted,
                "/api/accepted": self.accepted,
                "/api/accepted/{name}/image": self.accepted_image,
                "/api/accepted/{name}/labels": self.accepted_labels,
            },
            POST={"/api/draws": self.draw, "/api/accept": self.accept},
            DELETE={"/api/draws/{id}": self.cancel_draw, "/api/accepted/{name}": self.discard},
        )

    @property
    def _place(self) -> Workplace:
        return self._desk.workplace

    async def draw(self, request: Request) -> Response:
        """Take a wish; answer the id of its draw."""
        body = DrawBody(request)
        head = await body.head()
        place, (start, base) = self._place, self._refs(head)

        def canvas() -> tuple[int, int]:
            from guided_diffusion.pipelines.studio.drawing import canvas_size

            return canvas_size(place, base)

        size = await run_in_threadpool(canvas)
        if tuple(head.size) != size:
            raise Refused(400, f"size is {head.size}, but the canvas has {list(size)}")
        labels = await body.labels(size[0] * size[1] * place.label_bytes)
        draw = self._desk.submit(await run_in_threadpool(self._wish, head, labels, start, base))
        return json_answer({"id": draw.id}, status=202)

    def _refs(self, head: DrawHead) -> tuple[PairRef | None, PairRef | GoodRef | None]:
        """Return start and base of a wish, which have to be there."""
        from guided_diffusion.pipelines.studio.drawing import GoodRef, PairRef

        place = self._place

        def pair(given: PairHead) -> PairRef:
            if given.index >= len(place.pairs.pairs.get(given.split, ())):
                raise Refused(400, "there is no such pair")
            return PairRef(given.split, given.index)

        base: PairRef | GoodRef | None = None
        if head.base is not None:
            if not place.inpaints:
                raise Refused(400, "the model fills no holes: draw without a base")
            if isinstance(head.base, GoodHead):
                if head.base.good >= len(place.goods.images):
                    raise Refused(400, "there is no such good image")
                base = GoodRef(head.base.good)
            else:
                base = pair(head.base)
        return None if head.start is None else pair(head.start), base

    def _wish(self, head: DrawHead, labels: bytes, start: PairRef | None, base: PairRef | GoodRef | None) -> Wish:
        from guided_diffusion.pipelines.studio.drawing import Wish
        from guided_diffusion.pipelines.studio.workplace import changed_sampler

        place = self._place
        label = place.label_of(labels, (head.size[0], head.size[1]))
        sampler = changed_sampler(place.config.sampler, sampler=head.sampler, steps=head.steps, s=head.s)
        origins = place.shelf.origins
        if not all(index in origins for index in head.parts):
            raise Refused(400, "there is no such part")
        return Wish(label, head.count, head.seed, sampler, start, base, tuple(origins[index] for index in head.parts))

    async def draw_events(self, request: Request) -> Response:
        """Stream what becomes of a draw, from its start."""
        draw = self._desk.draw_of(request.path_params["id"])
        return event_stream(draw.events.read(self._desk.closing))

    async def cancel_draw(self, request: Request) -> Response:
        """Cancel a draw."""
        self._desk.cancel(request.path_params["id"])
        return Response(status_code=204)

    async def draw_image(self, request: Request) -> Response:
        """Answer an image that was drawn, as PNG."""
        return Response(self._candidate(request).png, media_type="image/png")

    async def draw_predicted(self, request: Request) -> Response:
        """Answer what the segmenter sees in an image."""
        predicted = self._candidate(request).predicted
        if predicted is None:
            raise Refused(404, "no segmenter has looked at it")
        return label_answer(predicted)

    def _candidate(self, request: Request) -> Candidate:
        draw = self._desk.draw_of(request.path_params["id"])
        found = draw.candidates.get(index_of(request.path_params["j"], draw.wish.count))
        if found is None:
            raise Refused(404, "the image is not drawn yet")
        return found

    async def draw_hole(self, request: Request) -> Response:
        """Answer what of the canvas is painted anew, 0 and 1."""
        wish = self._desk.draw_of(request.path_params["id"]).wish

        def hole() -> NDArray[np.bool_] | None:
            from guided_diffusion.pipelines.studio.drawing import hole_of

            return hole_of(self._place, wish)

        found = await run_in_threadpool(hole)
        if found is None:
            raise Refused(404, "the whole image is drawn")
        return label_answer(found.view("u1"))

    async def accept(self, request: Request) -> Response:
        """Accept an image as a pair; answer its name."""
        body = await json_body(request, AcceptBody)
        return json_answer({"name": await run_in_threadpool(self._desk.accept, body.draw, body.j)})

    async def accepted(self, request: Request) -> Response:
        """Answer a page of the list of accepted pairs, the newest first."""
        names = self._place.accepted.names[::-1]
        shown = page_of(request, LISTED, len(names))
        record = page_record(request, LISTED, len(names))
        return json_answer({**record, "accepted": [{"name": names[index]} for index in shown]})

    def _files(self, request: Request) -> tuple[Path, Path]:
        files = self._place.accepted.files(request.path_params["name"])
        if files is None:
            raise Refused(404, "there is no such pair")
        return files

    async def accepted_image(self, request: Request) -> Response:
        """Answer the image of an accepted pair, as it was written."""
        from guided_diffusion.data.files import read_bytes  # imports torch

        content = await run_in_threadpool(read_bytes, self._files(request)[0])
        return Response(content, media_type="image/png")

    async def accepted_labels(self, request: Request) -> Response:
        """Answer the labels of an accepted pair."""
        path, encoding = self._files(request)[1], self._place.encoding

        def label() -> NDArray[np.integer]:
            from guided_diffusion.data.datasets import read_mask

            return read_mask(path, encoding).numpy().astype(encoding.dtype)

        return label_answer(await run_in_threadpool(label))

    async def discard(self, request: Request) -> Response:
        """Move an accepted pair into the trash."""
        await run_in_threadpool(self._desk.discard, request.path_params["name"])
        return Response(status_code=204)
