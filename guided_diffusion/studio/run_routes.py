"""The routes of runs: a training that is watched, batches of samples, the report of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guided_diffusion.studio.answers import json_answer, routes_of
from guided_diffusion.studio.bodies import JobBody, NoBody, TicketBody, json_body
from guided_diffusion.studio.desk import Desk
from guided_diffusion.studio.guard import REPORT_POLICY, Refused
from guided_diffusion.studio.jobs import Jobs
from guided_diffusion.studio.streams import event_stream, polled
from guided_diffusion.studio.tickets import Tickets
from guided_diffusion.studio.training import PREVIEWS, TrainingWatch, previews_of

if TYPE_CHECKING:
    from guided_diffusion.pipelines.studio.workplace import Workplace

_OFTEN, _SELDOM = 0.5, 1.0  # seconds between two looks at batches, and at a training


class RunRoutes:
    """Answers what shows runs, and starts and stops batches."""

    def __init__(self, desk: Desk):
        self._desk, self._tickets = desk, Tickets()
        self._jobs: Jobs | None = None

    def routes(self) -> list[Route]:
        """Return the routes."""
        return routes_of(
            GET={
                "/api/training/events": self.training_events,
                "/api/training/previews/{name}": self.preview,
                "/api/jobs/events": self.job_events,
                "/view/{ticket}": self.view,
            },
            POST={
                "/api/jobs": self.begin_job,
                "/api/jobs/{id}/resume": self.resume_job,
                "/api/tickets": self.ticket,
            },
            DELETE={"/api/jobs/{id}": self.stop_job},
        )

    @property
    def _place(self) -> Workplace:
        return self._desk.workplace

    @property
    def _run_folder(self) -> Path:
        return self._place.path.parent

    async def training_events(self, request: Request) -> Response:
        """Stream what happens to the training, without an end."""
        watch = TrainingWatch(self._run_folder)
        return event_stream(polled(watch.look, self._desk.closing, _SELDOM))

    async def preview(self, request: Request) -> Response:
        """Answer a preview of the training, by a name of its listing."""
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
        """Start a batch; answer its id."""
        body = await json_body(request, JobBody)
        jobs = await run_in_threadpool(self._batches)
        return json_answer({"id": await run_in_threadpool(jobs.begin, body.model_dump())}, status=202)

    async def resume_job(self, request: Request) -> Response:
        """Go on with a batch that stopped."""
        await json_body(request, NoBody)
        jobs = await run_in_threadpool(self._batches)
        await run_in_threadpool(jobs.resume, request.path_params["id"])
        return Response(status_code=204)

    async def stop_job(self, request: Request) -> Response:
        """Ask a batch to stop."""
        jobs = await run_in_threadpool(self._batches)
        jobs.stop(request.path_params["id"])
        return Response(status_code=204)

    async def job_events(self, request: Request) -> Response:
        """Stream the state of all batches, without an end."""
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
        """Answer a ticket that opens the report once."""
        await json_body(request, TicketBody)
        folder = self._place.config.evaluate_dir
        report = Path(folder) / "report.html"
        if not folder or not report.is_file():
            raise Refused(404, "there is no report: give evaluate_dir, the output_dir of evaluate")
        return json_answer({"ticket": self._tickets.issue(report)})

    async def view(self, request: Request) -> Response:
        """Answer the report to a ticket."""
        path = self._tickets.redeem(request.path_params["ticket"])
        if path is None:
            raise Refused(404, "the ticket was used, or is older than a minute: open it from the page again")
        content = await run_in_threadpool(path.read_bytes)
        return Response(
            content, media_type="text/html; charset=utf-8", headers={"content-security-policy": REPORT_POLICY}
        )
