"""A hostile network for the two ends of a transport, without a driver: loses, copies, delays and reorders as a script says."""

import dataclasses
import heapq
import itertools
from collections.abc import Callable


@dataclasses.dataclass
class Fate:
    """What happens to one datagram: the delays of its copies in s; none means lost."""

    delays_s: tuple[float, ...] = (0.05,)


def converse(
    sender,
    receiver,
    events: list[tuple[float, bytes | None]],
    down: Callable[[int], Fate],
    up: Callable[[int], Fate],
    until_s: float = 300.0,
    on_sent: Callable[[bytes], None] = lambda datagram: None,
) -> list[tuple[float, bytes]]:
    """Let two ends talk.

    Args:
        events: (time, token) to hand to the sender, in order; a token of None finishes the stream.
        down, up: fate of the n-th datagram of each direction.

    Returns:
        (time, token) as the receiver delivered them.
    """
    queue: list = []
    order = itertools.count()
    numbers = {True: itertools.count(), False: itertools.count()}
    out: list[tuple[float, bytes]] = []
    now = 0.0

    def send(datagrams: list[bytes], is_down: bool) -> None:
        for datagram in datagrams:
            if is_down:
                on_sent(datagram)
            for delay_s in (down if is_down else up)(next(numbers[is_down])).delays_s:
                heapq.heappush(queue, (now + delay_s, next(order), "down" if is_down else "up", datagram))

    for when_s, token in events:
        heapq.heappush(queue, (when_s, next(order), "token", token))
    for _ in range(200_000):
        timers = [t for t in (sender.next_timer(), receiver.next_timer()) if t is not None]
        due_s = min(timers, default=float("inf"))
        if queue and queue[0][0] <= due_s:
            now, _, kind, value = heapq.heappop(queue)
            if kind == "token":
                sender.finish(now) if value is None else sender.on_token(value, now)
            elif kind == "up":
                sender.on_datagram(value, now)
            else:
                out += [(now, token) for token in receiver.on_datagram(value, now)]
        elif due_s <= until_s:
            now = max(now, due_s)
        else:
            return out
        if now > until_s:
            return out
        send(sender.packets(now), True)
        send(receiver.packets(now), False)
    raise AssertionError("the two ends never come to rest")
