"""The mark of synthetic images: what machines and people can read in the file itself about how it was made.

The PNG gets an XMP packet with the digital source type of the IPTC (cv.iptc.org/newscodes/digitalsourcetype), and
texts. Pixels stay as they are, and the same settings give the same bytes.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Literal

from PIL.PngImagePlugin import PngInfo

from guided_diffusion.samples.manifest import PNG_START, SampleSettings

SourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeCapture"]
"""An image that a trained model made, a photograph of which it made a part, or one that is made of photographs."""
_MADE: dict[SourceType, str] = {
    "trainedAlgorithmicMedia": "made by a diffusion model",
    "compositeWithTrainedAlgorithmicMedia": "partly made by a diffusion model",
    "compositeCapture": "made of parts of photographs",
}
_AFTER_HEADER = len(PNG_START) + 25  # of a header chunk of 13 bytes
_XMP = (
    "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>"
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    "<rdf:Description rdf:about='' xmlns:Iptc4xmpExt='http://iptc.org/std/Iptc4xmpExt/2008-02-29/'>"
    "<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"
    "</Iptc4xmpExt:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='r'?>"
)
_SHOWN = ("sampler", "steps", "s", "checkpoint")  # settings that the text names; the manifest has all


def mark_of(kind: SourceType, settings: SampleSettings, seed: int) -> PngInfo:
    """Return the chunks that mark an image of `settings` and `seed`; they name no file of the computer."""
    named = [f"seed {seed}"]
    named += [f"{key} {value}" for key in _SHOWN if (value := getattr(settings, key)) is not None]
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _XMP.format(kind=kind))
    info.add_text("Software", "ISDM")
    info.add_text("Comment", f"synthetic: {_MADE[kind]}; {settings.action}, {', '.join(named)}")
    return info


def write_mark(path: Path, mark: PngInfo) -> None:
    """Put the chunks of a mark after the header of a PNG, which is written anew; not atomic by itself."""
    content = path.read_bytes()
    assert content.startswith(PNG_START), f"{path} is no PNG"
    chunks = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data, _ in mark.chunks
    )
    path.write_bytes(content[:_AFTER_HEADER] + chunks + content[_AFTER_HEADER:])
