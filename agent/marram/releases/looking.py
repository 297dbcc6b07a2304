"""One look at the release repository: the child that verifies, and the blocks that it asks for over MQTT."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from marram.children.child import Child, ChildError
from marram.errors import WireError
from marram.learning.shell import Link
from marram.loop import Loop
from marram.releases import talk
from marram.releases.blocks import Action as BlockAction
from marram.releases.blocks import BlockFetch, Deliver, Finished, Send
from marram.releases.talk import Ask, Begun, Bytes, End, Job, Outcome, Release
from marram.wire import cbor
from marram.wire.messages import MAX_BLOCK, Block
from marram.wire.topics import Topics

log = logging.getLogger(__name__)

_OVERHEAD = 256


@dataclass
class Look:
    """Everything here is called by the loop's thread. begun, ended: what the owner wants to hear."""

    topics: Topics
    device: str
    link: Link
    loop: Loop
    begun: Callable[[Release, float], None]
    ended: Callable[[Outcome, float], None]
    wake_at: float | None = None
    _child: Child | None = None
    _outcome: Outcome | None = None
    _fetch: BlockFetch | None = None
    _limit: int | None = None
    _next_id: int = field(default=0)

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return self._child.pid if self._child is not None else None

    def start(self, job: Job, timeout: float, now: float) -> None:
        """Begin; only one look at a time. timeout: seconds. Raises ChildError."""
        self._outcome, self._next_id = None, max(self._next_id, int(now * 1000))
        child: Child

        def heard(frame: msgspec.Struct | ChildError) -> None:
            self.loop.post(lambda now: self._heard(child, frame, now))

        child = self._child = Child("marram.releases.fetch", talk.TOLD, heard, timeout)
        child.send(job)

    def stop(self) -> None:
        """End the child, if there is one; ``ended`` is not called any more."""
        child, self._child = self._child, None
        self._fetch, self.wake_at = None, None
        if child is not None:
            child.kill()

    def connected(self, max_payload: int, now: float) -> None:
        """The link is up. max_payload: bytes that the broker takes in one message."""
        self._limit = min(max(256, max_payload - _OVERHEAD), MAX_BLOCK)
        self.link.subscribe((self.topics.down(self.device, "block"),))
        if self._fetch is not None:
            self._do(self._fetch.connected(self._limit, now))

    def disconnected(self) -> None:
        """Nothing is asked for until the link is up again."""
        self._limit, self.wake_at = None, None

    def arrived(self, payload: bytes, now: float) -> None:
        """An answer of the cloud; whatever is not one is passed over."""
        if self._fetch is None:
            return
        try:
            block = cbor.unpack(payload, Block)
        except WireError as error:
            log.warning("a block was not understood: %s", error)
            return
        self._do(self._fetch.arrived(block, now))

    def wake(self, now: float) -> None:
        """Answers did not come."""
        if self._fetch is not None and self._limit is not None:
            self._do(self._fetch.wake(now))

    def _heard(self, child: Child, frame: msgspec.Struct | ChildError, now: float) -> None:
        if child is not self._child:
            return
        match frame:
            case Ask():
                self._ask(frame, now)
            case Begun():
                self.begun(frame.release, now)
            case Outcome():
                self._outcome = frame
                child.kill()  # all is on the disk, and it might not find its end by itself
            case ChildError():
                self._child, self._fetch, self.wake_at = None, None, None
                crashed = Outcome(error=f"the process that looks for releases {frame}")
                self.ended(self._outcome or crashed, now)

    def _ask(self, ask: Ask, now: float) -> None:
        limit = self._limit if self._limit is not None else 256
        self._fetch = BlockFetch(ask.file, ask.ranges, ask.size, ask.most, limit, self._next_id)
        actions = self._fetch.start(now)
        if self._limit is not None:
            self._do(actions)

    def _do(self, actions: list[BlockAction]) -> None:
        fetch, child = self._fetch, self._child
        assert fetch is not None
        for action in actions:
            match action:
                case Send():
                    self.link.publish(self.topics.up(self.device, "fetch"), cbor.pack(action.fetch))
                case Deliver() if child is not None:
                    child.send(Bytes(action.offset, action.data))
                case Finished():
                    self._fetch = None
                    if child is not None:
                        child.send(End(action.missing, action.error))
        self._next_id = fetch.next_id
        self.wake_at = self._fetch.wake_at if self._fetch is not None else None
