"""The desk: one thread that opens the workplace and then draws, the newest wish first; and what it has drawn."""

from __future__ import annotations

import secrets
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guided_diffusion.config.studio import StudioConfig
from guided_diffusion.runtime.errors import UserError, lacks_memory, one_line
from guided_diffusion.studio.guard import Refused
from guided_diffusion.studio.streams import EventLog

if TYPE_CHECKING:
    from guided_diffusion.pipelines.studio.drawing import Candidate, Wish
    from guided_diffusion.pipelines.studio.workplace import Workplace

KEPT_DRAWS, KEPT_BYTES = 64, 512 * 2**20
"""Of candidates that nobody accepted: so many draws, and so much memory; the oldest are forgotten."""
_FIRST = 1.0  # seconds after which the workplace is opened although no page has come yet


@dataclass(eq=False)
class Draw:
    """One wish, and what became of it."""

    id: str
    wish: Wish
    events: EventLog = field(default_factory=EventLog)
    candidates: dict[int, Candidate] = field(default_factory=dict)
    accepted: dict[int, str] = field(default_factory=dict)
    cancelled: bool = False

    @property
    def size(self) -> int:
        """Bytes of what it holds."""
        images = sum(len(each.png) + len(each.pair.image) + each.pair.label.nbytes for each in self.candidates.values())
        return images + self.wish.label.nbytes


class Desk(threading.Thread):
    """Opens the workplace, whose folder is taken, then draws. What other threads read of it is only ever added to."""

    def __init__(self, config: StudioConfig, on_failure: Callable[[], None] = lambda: None):
        super().__init__(name="studio desk", daemon=True)
        self.config = config
        self.failure: Exception | None = None
        """Why the workplace could not be opened."""
        self.page_served = threading.Event()
        self.opened = threading.Event()
        self.refusal: Callable[[], str] = lambda: ""
        """Why nothing can be drawn now, in one line; "" if it can."""
        self._on_failure = on_failure
        self._workplace: Workplace | None = None
        self._draws: dict[str, Draw] = {}
        self._next: Draw | None = None
        self._changed = threading.Condition()
        self._accepting = threading.Lock()
        self._closed = False

    @property
    def workplace(self) -> Workplace:
        """The workplace; Refused while it is being opened."""
        if self.failure is not None:
            raise Refused(503, one_line(str(self.failure).partition("\n")[0]))
        if self._workplace is None:
            raise Refused(503, "the studio is still reading the model and the data: try again in a moment")
        return self._workplace

    def closing(self) -> bool:
        """Return whether the studio is being left."""
        return self._closed

    def close(self) -> None:
        """Have the thread end: at the next step of a draw."""
        with self._changed:
            self._closed = True
            for draw in self._draws.values():
                draw.cancelled = True
            self._changed.notify_all()
        self.page_served.set()

    # ------------------------------------------------------------------------------------------------ the thread

    def run(self) -> None:
        # Importing torch would keep the page waiting.
        self.page_served.wait(_FIRST)
        try:
            self._work()
        except Exception as error:
            self.failure = error
            if not isinstance(error, UserError):
                traceback.print_exception(error)
            self.opened.set()
            self._on_failure()

    def _work(self) -> None:
        from guided_diffusion.pipelines.studio.workplace import Workplace

        if self._closed:
            return
        workplace = Workplace.open(self.config)
        workplace.begin_results()
        self._workplace = workplace
        self.opened.set()
        threading.Thread(target=workplace.shelf.fill, args=[self.closing], daemon=True).start()
        workplace.load()
        while (draw := self._wait()) is not None:
            self._draw(workplace, draw)

    def _wait(self) -> Draw | None:
        with self._changed:
            while self._next is None and not self._closed:
                self._changed.wait()
            draw, self._next = self._next, None
            return None if self._closed else draw

    def _draw(self, workplace: Workplace, draw: Draw) -> None:
        from guided_diffusion.pipelines.sampling import Cancelled
        from guided_diffusion.pipelines.studio.drawing import draw as draw_wish

        try:
            if line := self.refusal():
                raise UserError(line)
            draw_wish(workplace, draw.wish, draw.candidates.__setitem__, draw.events.add, lambda: draw.cancelled)
            draw.events.add({"type": "done"}, last=True)
        except Cancelled:
            draw.events.add({"type": "cancelled"}, last=True)
        except UserError as error:
            draw.events.add({"type": "error", "line": error.messages[0]}, last=True)
        except Exception as error:  # the studio goes on
            line = "something went wrong here: the terminal of the studio says what"
            if lacks_memory(error):
                line = one_line(f"memory: {str(error).partition(chr(10))[0]}; draw fewer images at a time")
            else:
                traceback.print_exception(error)
            draw.events.add({"type": "error", "line": line}, last=True)

    # ------------------------------------------------------------------------------------------- for the routes

    def submit(self, wish: Wish) -> Draw:
        """Take a wish; those before it that are not drawn yet are cancelled."""
        draw = Draw(secrets.token_hex(8), wish)
        draw.events.add({"type": "queued"})
        with self._changed:
            for other in self._draws.values():
                self._cancel(other)
            self._draws[draw.id] = draw
            self._next = draw
            self._forget()
            self._changed.notify_all()
        return draw

    def _cancel(self, draw: Draw) -> None:
        draw.cancelled = True
        if self._next is draw:
            self._next = None
            draw.events.add({"type": "cancelled"}, last=True)

    def _forget(self) -> None:
        """Forget the oldest draws of more than are kept."""
        sizes = [draw.size for draw in self._draws.values()]
        while len(self._draws) > 1 and (len(self._draws) > KEPT_DRAWS or sum(sizes) > KEPT_BYTES):
            del self._draws[next(iter(self._draws))]
            sizes.pop(0)

    def draw_of(self, name: str) -> Draw:
        """Return a draw by its id; Refused where there is none."""
        if (draw := self._draws.get(name)) is None:
            raise Refused(404, "there is no such draw, or it was too long ago")
        return draw

    def cancel(self, name: str) -> None:
        """Cancel a draw; one that has ended stays."""
        draw = self.draw_of(name)
        with self._changed:
            self._cancel(draw)

    def accept(self, name: str, number: int) -> str:
        """Write a candidate as a pair, and return its name: the same one for the same candidate."""
        draw, folder = self.draw_of(name), self.workplace.accepted
        with self._accepting:
            before = draw.accepted.get(number)
            if before is not None and folder.files(before) is not None:
                return before
            candidate = draw.candidates.get(number)
            if candidate is None:
                raise Refused(404, "there is no such image")
            draw.accepted[number] = folder.accept(candidate.pair)
            return draw.accepted[number]

    def discard(self, name: str) -> None:
        """Move an accepted pair into the trash; Refused where there is none of that name."""
        with self._accepting:
            if not self.workplace.accepted.discard(name):
                raise Refused(404, "there is no such pair")

    def state(self) -> dict[str, Any]:
        """Return what the page asks first."""
        return self.workplace.facts()
