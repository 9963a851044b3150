"""The routes of the studio: indices and ids that the server made, never paths."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from guided_diffusion.studio.bodies import (
    AcceptBody,
    DrawBody,
    DrawHead,
    GoodHead,
    JobBody,
    NoBody,
    PairHead,
    TicketBody,
    index_of,
    json_body,
    page_of,
    page_record,
)
from guided_diffusion.studio.desk import Desk
from guided_diffusion.studio.guard import REPORT_POLICY, Guard, Refused
from guided_diffusion.studio.jobs import Jobs
from guided_diffusion.studio.streams import event_stream, polled
from guided_diffusion.studio.tickets import Tickets
from guided_diffusion.studio.training import PREVIEWS, TrainingWatch, previews_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from guided_diffusion.pipelines.studio.drawing import GoodRef, PairRef, Wish
    from guided_diffusion.pipelines.studio.workplace import Workplace

STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
}
_PAIRS, _PARTS = 48, 96  # of a page of a list
_OFTEN, _SELDOM = 0.5, 1.0  # seconds between two looks at batches, and at a training
Handler = Callable[[Request], Awaitable[Response]]


class Routes:
    """What answers each route; files are read and images made in threads."""

    def __init__(self, desk: Desk):
        self._desk, self._tickets = desk, Tickets()
        self._jobs: Jobs | None = None
        # A fixed table: no name in a request is ever joined to a folder.
        self._static = {path.name: path for path in STATIC.iterdir() if path.suffix in _TYPES}

    def app(self, token: str) -> Guard:
        """Return the application, its guard first."""
        return Guard(Router(self._routes(), redirect_slashes=False), token)

    def _routes(self) -> list[Route]:
        get: dict[str, Handler] = {
            "/": self.shell,
            "/static/{name}": self.static,
            "/view/{ticket}": self.view,
            "/api/run": self.run,
            "/api/pairs": self.pairs,
            "/api/pairs/{split}/{i}/image": self.pair_image,
            "/api/pairs/{split}/{i}/labels": self.pair_labels,
            "/api/parts": self.parts,
            "/api/parts/{i}": self.part,
            "/api/goods": self.goods,
            "/api/goods/{i}/image": self.good_image,
            "/api/goods/{i}/labels": self.good_labels,
            "/api/draws/{id}/events": self.draw_events,
            "/api/draws/{id}/hole": self.draw_hole,
            "/api/draws/{id}/{j}/image": self.draw_image,
            "/api/draws/{id}/{j}/predicted": self.draw_predicted,
            "/api/accepted": self.accepted,
            "/api/accepted/{name}/image": self.accepted_image,
            "/api/accepted/{name}/labels": self.accepted_labels,
            "/api/training/events": self.training_events,
            "/api/training/previews/{name}": self.preview,
            "/api/jobs/events": self.job_events,
        }
        post: dict[str, Handler] = {
            "/api/draws": self.draw,
            "/api/accept": self.accept,
            "/api/jobs": self.begin_job,
            "/api/jobs/{id}/resume": self.resume_job,
            "/api/tickets": self.ticket,
        }
        delete: dict[str, Handler] = {
            "/api/draws/{id}": self.cancel_draw,
            "/api/accepted/{name}": self.discard,
            "/api/jobs/{id}": self.stop_job,
        }
        tables = (("GET", get), ("POST", post), ("DELETE", delete))
        return [Route(path, handler, methods=[method]) for method, table in tables for path, handler in table.items()]

    @property
    def _place(self) -> Workplace:
        return self._desk.workplace

    # ------------------------------------------------------------------------------------------------- the shell

    async def shell(self, request: Request) -> Response:
        content = self._static["index.html"].read_bytes()
        self._desk.page_served.set()
        return Response(content, media_type=_TYPES[".html"])

    async def static(self, request: Request) -> Response:
        path = self._static.get(request.path_params["name"])
        if path is None:
            raise Refused(404, "there is no such file")
        return Response(path.read_bytes(), media_type=_TYPES[path.suffix])

    async def view(self, request: Request) -> Response:
        path = self._tickets.redeem(request.path_params["ticket"])
        if path is None:
            raise Refused(404, "the ticket was used, or is older than a minute: open it from the page again")
        content = await run_in_threadpool(path.read_bytes)
        return Response(content, media_type=_TYPES[".html"], headers={"content-security-policy": REPORT_POLICY})

    async def run(self, request: Request) -> Response:
        self._desk.page_served.set()
        # The page comes before torch: what it asks first waits here for the model to be opened.
        while not self._desk.opened.is_set() and not self._desk.closing():
            await asyncio.sleep(0.05)
        return JSONResponse(await run_in_threadpool(self._desk.state))

    # ------------------------------------------------------------------------------------------------ real images

    def _pair(self, request: Request) -> tuple[str, int]:
        split = request.path_params["split"]
        if split not in self._place.pairs.pairs:
            raise Refused(404, "there is no such split")
        return split, index_of(request.path_params["i"], len(self._place.pairs.pairs[split]))

    async def pairs(self, request: Request) -> Response:
        pairs = self._place.pairs
        split = request.query_params.get("split", self._place.config.data_split)
        if split not in pairs.pairs:
            raise Refused(404, "there is no such split")
        shown = page_of(request, _PAIRS, len(pairs.pairs[split]))

        def listed() -> list[dict[str, Any]]:
            named = [(index, pairs.pairs[split][index].stem) for index in shown]
            return [{"index": i, "name": name, "classes": pairs.classes(split, i)} for i, name in named]

        record = page_record(request, _PAIRS, len(pairs.pairs[split]))
        return JSONResponse({"split": split, **record, "pairs": await run_in_threadpool(listed)})

    async def pair_image(self, request: Request) -> Response:
        return await self._png(self._place.pairs.image, *self._pair(request))

    async def pair_labels(self, request: Request) -> Response:
        return label_answer(await run_in_threadpool(self._place.pairs.label, *self._pair(request)))

    async def parts(self, request: Request) -> Response:
        parts = self._place.shelf.parts
        count = len(parts)
        listed = [
            {"index": index, "class": parts[index].class_id, "size": list(parts[index].mask.shape)}
            for index in page_of(request, _PARTS, count)
        ]
        return JSONResponse({**page_record(request, _PARTS, count), "parts": listed})

    async def part(self, request: Request) -> Response:
        parts = self._place.shelf.parts
        return label_answer(parts[index_of(request.path_params["i"], len(parts))].mask.view("u1"))

    async def goods(self, request: Request) -> Response:
        goods = self._place.goods
        shown = page_of(request, _PAIRS, len(goods.images))

        def listed() -> list[dict[str, Any]]:
            return [{"index": i, "name": goods.images[i].stem, "size": goods.size(i)} for i in shown]

        record = page_record(request, _PAIRS, len(goods.images))
        return JSONResponse({**record, "goods": await run_in_threadpool(listed)})

    def _good(self, request: Request) -> int:
        return index_of(request.path_params["i"], len(self._place.goods.images))

    async def good_image(self, request: Request) -> Response:
        def picture(index: int) -> NDArray[np.uint8]:
            base = self._place.goods.of(index)
            return base.picture(base.pixels)

        return await self._png(picture, self._good(request))

    async def good_labels(self, request: Request) -> Response:
        index = self._good(request)
        return label_answer(await run_in_threadpool(lambda: self._place.goods.of(index).canvas_label))

    async def _png(self, picture: Callable[..., NDArray[np.uint8]], *which: Any) -> Response:
        def made() -> bytes:
            from guided_diffusion.pipelines.studio.drawing import png_of

            return png_of(picture(*which))

        return Response(await run_in_threadpool(made), media_type="image/png")

    # ------------------------------------------------------------------------------------------------------ draws

    async def draw(self, request: Request) -> Response:
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
        return JSONResponse({"id": draw.id}, status_code=202)

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
        return Wish(label, head.count, head.seed, sampler, start, base)

    async def draw_events(self, request: Request) -> Response:
        draw = self._desk.draw_of(request.path_params["id"])
        return event_stream(draw.events.read(self._desk.closing))

    async def cancel_draw(self, request: Request) -> Response:
        self._desk.cancel(request.path_params["id"])
        return Response(status_code=204)

    async def draw_image(self, request: Request) -> Response:
        return Response(self._candidate(request).png, media_type="image/png")

    async def draw_predicted(self, request: Request) -> Response:
        predicted = self._candidate(request).predicted
        if predicted is None:
            raise Refused(404, "no segmenter has looked at it")
        return label_answer(predicted)

    def _candidate(self, request: Request) -> Any:
        draw = self._desk.draw_of(request.path_params["id"])
        found = draw.candidates.get(index_of(request.path_params["j"], draw.wish.count))
        if found is None:
            raise Refused(404, "the image is not drawn yet")
        return found

    async def draw_hole(self, request: Request) -> Response:
        wish = self._desk.draw_of(request.path_params["id"]).wish

        def hole() -> NDArray[np.bool_] | None:
            from guided_diffusion.pipelines.studio.drawing import hole_of

            return hole_of(self._place, wish)

        found = await run_in_threadpool(hole)
        if found is None:
            raise Refused(404, "the whole image is drawn")
        return label_answer(found.view("u1"))

    # --------------------------------------------------------------------------------------------- accepted pairs

    async def accept(self, request: Request) -> Response:
        body = await json_body(request, AcceptBody)
        return JSONResponse({"name": await run_in_threadpool(self._desk.accept, body.draw, body.j)})

    async def accepted(self, request: Request) -> Response:
        names = self._place.accepted.names[::-1]
        shown = page_of(request, _PAIRS, len(names))
        record = page_record(request, _PAIRS, len(names))
        return JSONResponse({**record, "accepted": [{"name": names[index]} for index in shown]})

    def _files(self, request: Request) -> tuple[Path, Path]:
        files = self._place.accepted.files(request.path_params["name"])
        if files is None:
            raise Refused(404, "there is no such pair")
        return files

    async def accepted_image(self, request: Request) -> Response:
        content = await run_in_threadpool(self._files(request)[0].read_bytes)
        return Response(content, media_type="image/png")

    async def accepted_labels(self, request: Request) -> Response:
        path, encoding = self._files(request)[1], self._place.encoding

        def label() -> NDArray[np.integer]:
            from guided_diffusion.data.datasets import read_mask

            return read_mask(path, encoding).numpy().astype(encoding.dtype)

        return label_answer(await run_in_threadpool(label))

    async def discard(self, request: Request) -> Response:
        await run_in_threadpool(self._desk.discard, request.path_params["name"])
        return Response(status_code=204)

    # ------------------------------------------------------------------------------------------------------- runs

    @property
    def _run_folder(self) -> Path:
        return self._place.path.parent

    async def training_events(self, request: Request) -> Response:
        watch = TrainingWatch(self._run_folder)
        return event_stream(polled(watch.look, self._desk.closing, _SELDOM))

    async def preview(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in await run_in_threadpool(previews_of, self._run_folder):
            raise Refused(404, "there is no such preview")
        content = await run_in_threadpool((self._run_folder / PREVIEWS / name).read_bytes)
        return Response(content, media_type="image/png")

    def _batches(self) -> Jobs:
        """Return the batches, which are looked up when they are asked for first."""
        if self._jobs is None:
            place = self._place
            self._jobs = Jobs(Path(place.config.results_path), place.sample_config)
            if place.device.type != "cpu":
                self._desk.refusal = self._busy
        return self._jobs

    def _busy(self) -> str:
        running = self._jobs.running if self._jobs is not None else ""
        return f"{running} is sampling on the same device: wait for it, or stop it" if running else ""

    async def begin_job(self, request: Request) -> Response:
        body = await json_body(request, JobBody)
        jobs = await run_in_threadpool(self._batches)
        return JSONResponse({"id": await run_in_threadpool(jobs.begin, body.model_dump())}, status_code=202)

    async def resume_job(self, request: Request) -> Response:
        await json_body(request, NoBody)
        jobs = await run_in_threadpool(self._batches)
        await run_in_threadpool(jobs.resume, request.path_params["id"])
        return Response(status_code=204)

    async def stop_job(self, request: Request) -> Response:
        jobs = await run_in_threadpool(self._batches)
        jobs.stop(request.path_params["id"])
        return Response(status_code=204)

    async def job_events(self, request: Request) -> Response:
        jobs = await run_in_threadpool(self._batches)
        before: list[Any] = [None]

        def look() -> list[dict[str, Any]]:
            states = jobs.states()
            if states == before[0]:
                return []
            before[0] = states
            return [{"type": "jobs", "jobs": states}]

        return event_stream(polled(look, self._desk.closing, _OFTEN))

    def close(self) -> None:
        """Ask the batches to stop."""
        if self._jobs is not None:
            self._jobs.close()

    async def ticket(self, request: Request) -> Response:
        await json_body(request, TicketBody)
        folder = self._place.config.evaluate_dir
        report = Path(folder) / "report.html"
        if not folder or not report.is_file():
            raise Refused(404, "there is no report: give evaluate_dir, the output_dir of evaluate")
        return JSONResponse({"ticket": self._tickets.issue(report)})


def label_answer(label: NDArray[Any]) -> Response:
    """Return a map [H, W] of numbers as raw bytes, row by row."""
    kind = "u8" if label.dtype.itemsize == 1 else "u16"
    content = label.astype("<u1" if kind == "u8" else "<u2").tobytes()
    headers = {"x-size": f"{label.shape[0]},{label.shape[1]}", "x-type": kind}
    return Response(content, media_type="application/octet-stream", headers=headers)
