"""What the page sends: JSON, checked as strictly as a configuration, and labels, of a size known beforehand."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request

from guided_diffusion.diffusion.options import SAMPLER_DEFAULTS
from guided_diffusion.runtime.options import RULES
from guided_diffusion.runtime.strict_json import parse_json
from guided_diffusion.studio.guard import SMALL_BODY, Refused

MOST_IMAGES = 16
_SLACK = 1024  # bytes by which gzip may be longer than what it holds, beside a thousandth
_GZIP = 31  # window bits of zlib for a gzip header

Seed = Annotated[int, Field(ge=0, lt=2**53)]  # that JavaScript can hold
Steps = Annotated[int, Field(ge=1, le=100_000)]
Guidance = Annotated[float, Field(ge=0, le=1000)]
Number = Annotated[int, Field(ge=0, lt=10**9)]
SamplerName = Literal[tuple(SAMPLER_DEFAULTS)]  # type: ignore[valid-type]


class _Body(BaseModel):
    """An object of JSON with these keys and no others."""

    model_config = RULES


class PairHead(_Body):
    """A real pair."""

    split: Literal["train", "test"]
    index: Number


class GoodHead(_Body):
    """A good image."""

    good: Number


class DrawHead(_Body):
    """What is to be drawn of the labels that follow."""

    size: Annotated[list[Annotated[int, Field(ge=1, le=2**16)]], Field(min_length=2, max_length=2)]
    count: Annotated[int, Field(ge=1, le=MOST_IMAGES)]
    seed: Seed
    steps: Steps | None = None
    s: Guidance | None = None
    sampler: SamplerName | None = None
    start: PairHead | None = None
    edited: bool = False
    """What the page believes; whether the mask differs from its start is found out here."""
    base: GoodHead | PairHead | None = None
    parts: Annotated[list[Number], Field(max_length=500)] = []
    """The training pairs of whose masks parts were put onto the mask."""


class AcceptBody(_Body):
    """A candidate that is accepted."""

    draw: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    j: Annotated[int, Field(ge=0, lt=MOST_IMAGES)]


class JobBody(_Body):
    """A batch of samples."""

    num_samples: Annotated[int, Field(ge=1, le=1_000_000)]
    seed: Seed
    steps: Steps | None = None
    s: Guidance | None = None
    sampler: SamplerName | None = None


class TicketBody(_Body):
    """What is to be opened in a tab of its own."""

    what: Literal["report"]


class NoBody(_Body):
    """Nothing."""


Kind = TypeVar("Kind", bound=_Body)


def checked(kind: type[Kind], content: bytes) -> Kind:
    """Return a JSON text as an object of `kind`; Refused in one line for anything else."""
    value, mistakes = parse_json(content)
    if mistakes:
        raise Refused(400, f"JSON: {mistakes[0][0]}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(place) for place in detail["loc"] if isinstance(place, str | int))
        raise Refused(400, f"{where or 'the body'}: {detail['msg']}"[:300]) from None


async def json_body(request: Request, kind: type[Kind]) -> Kind:
    """Return the body of a request; Refused where it is another."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > SMALL_BODY:
            raise Refused(413, "the body is too large")
    return checked(kind, bytes(content) or b"{}")


class DrawBody:
    """The body of a wish: a line of JSON, then the labels, compressed; read in two steps."""

    def __init__(self, request: Request):
        self._chunks: AsyncIterator[bytes] = request.stream().__aiter__()
        self._length = int(request.headers["content-length"])
        self._content = bytearray()

    async def head(self) -> DrawHead:
        """Return the first line; Refused where it is longer than such a line can be."""
        while b"\n" not in self._content[:SMALL_BODY]:
            chunk = await anext(self._chunks, None)
            if chunk is None or len(self._content) > SMALL_BODY:
                raise Refused(400, "the first line of the body has to be JSON, and labels follow")
            self._content += chunk
        line, _, rest = bytes(self._content).partition(b"\n")
        self._length -= len(line) + 1
        self._content = bytearray(rest)
        return checked(DrawHead, line)

    async def labels(self, expected: int) -> bytes:
        """Return exactly `expected` bytes of labels; Refused for any other number."""
        limit = expected + expected // 1000 + _SLACK
        if self._length > limit:
            raise Refused(413, "the labels are longer than those of the canvas")
        async for chunk in self._chunks:
            self._content += chunk
            if len(self._content) > limit:
                raise Refused(413, "the labels are longer than those of the canvas")
        unpacker = zlib.decompressobj(_GZIP)
        try:
            labels = unpacker.decompress(bytes(self._content), expected + 1)
        except zlib.error:
            raise Refused(400, "the labels are no gzip") from None
        if len(labels) != expected or not unpacker.eof or unpacker.unused_data:
            raise Refused(400, f"the labels do not have the {expected} bytes of the canvas")
        return labels


def index_of(text: str, count: int) -> int:
    """Return a number in a path, below `count`; Refused for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < count):
        raise Refused(404, "there is no such thing")
    return int(text)


def page_of(request: Request, page_size: int, count: int) -> range:
    """Return the numbers that a page of a list shows; Refused for what is no number of a page."""
    page = index_of(request.query_params.get("page", "0"), 10**9)
    return range(min(page * page_size, count), min((page + 1) * page_size, count))


def page_record(request: Request, page_size: int, count: int) -> dict[str, Any]:
    """Return what a list says of its page."""
    return {"count": count, "page": int(request.query_params.get("page", "0")), "page_size": page_size}
