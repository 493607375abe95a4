"""New versions of the library for boards in the field: compiled, signed, and published for them to take."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.config import Config
from coordinator.echo import check_retained
from coordinator.mqtt import pack, session_with, subscribe
from coordinator.observer import look, retained
from tinyreptile import messages
from tinyreptile.software import MAX_IMAGE, SOFTWARE, signature
from tinyreptile.software import pack as pack_image

from .errors import BoardError


@dataclass(frozen=True)
class Offer:
    """A version for the boards with ``chip``: its number, and its image."""

    chip: str
    number: int
    image: bytes


@dataclass(frozen=True)
class State:
    """Of a board that takes updates: its chip, the number of its version, of one it tried in vain, is it online."""

    chip: str
    number: int
    failed: int
    online: bool


def make_offer(chip: str, number: int, files: dict[str, bytes]) -> Offer:
    """``files``, the library for ``chip``, as version ``number``; raises `BoardError` if they are too many."""
    image = pack_image({**files, "version": str(number).encode()})
    if len(image) > MAX_IMAGE:
        raise BoardError(f"an update has at most {MAX_IMAGE:,} bytes, this one {len(image):,}")
    return Offer(chip, number, image)


async def boards_of(config: Config) -> dict[str, State]:
    """The boards of the run that take updates, by id; raises the coordinator's `BrokerError`."""
    devices = (await look(config)).devices
    return {
        name: State(status["chip"], status["software"], status.get("failed", 0), status["state"] in ("online", "unfit"))
        for name, status in devices.items()
        if status.get("chip") and "software" in status
    }


async def check_key(config: Config, key: str, fleet: dict[str, State]) -> None:
    """Raise `BoardError` if a version that boards of ``fleet`` have taken is at the broker, signed with another key.

    What no board has taken may itself be signed with a wrong one.
    """
    topics = messages.RunTopics(config.run.name)
    async with session_with(config.broker) as session:
        await subscribe(session, *(topics.software(chip) for chip in sorted({b.chip for b in fleet.values()})))
        offered = [message async for _, message in retained(session, 1.0)]
    for message in offered:
        try:
            offer = messages.check(SOFTWARE, message)
        except messages.MessageError:
            continue  # it is no good to anybody
        number, chip = offer["version"], offer["chip"]
        taken = any((board.number, board.chip) == (number, chip) for board in fleet.values())
        signed = signature(key.encode(), number, chip, offer["bytes"], bytes(offer["sha256"]))
        if taken and signed != bytes(offer["signature"]):
            raise BoardError(
                f"version {number} for {chip}, which boards of the run have taken, is signed with another key; name "
                "the file with the key that they were flashed with"
            )


async def publish(
    config: Config, offer: Offer, key: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Announce ``offer``, signed with ``key``, in the place of what was offered before to boards with its chip.

    ``progress`` is called with the chunks that were sent and all there are. Raises `BrokerError`, also where the
    broker does not retain what was sent: then nothing is announced.
    """
    topic = messages.RunTopics(config.run.name).software(offer.chip)
    digest = hashlib.sha256(offer.image).digest()
    manifest = {
        "version": offer.number,
        "chip": offer.chip,
        "bytes": len(offer.image),
        "sha256": digest,
        "signature": signature(key.encode(), offer.number, offer.chip, len(offer.image), digest),
    }
    chunks = {}
    for index in range(messages.chunk_count(len(offer.image))):
        data = offer.image[index * messages.CHUNK_BYTES : (index + 1) * messages.CHUNK_BYTES]
        chunks[f"{topic}/{index}"] = pack({"version": offer.number, "data": data})
    async with session_with(config.broker) as session:
        await subscribe(session, f"{topic}/+")
        old = {name async for name, _ in retained(session, 1.0)}
        await session.unsubscribe(f"{topic}/+")
        # The announcement goes first: nobody is to begin with chunks of which some are old and some new.
        await session.publish(topic, b"", qos=1, retain=True)
        for done, (name, chunk) in enumerate(chunks.items(), 1):
            await session.publish(name, chunk, qos=1, retain=True)
            progress(done, len(chunks))
        for left in sorted(old - chunks.keys()):  # of a longer image
            await session.publish(left, b"", qos=1, retain=True)
        await check_retained(session, f"{topic}/+", chunks)
        await session.publish(topic, pack(manifest), qos=1, retain=True)
        await check_retained(session, topic, {topic: pack(manifest)})
