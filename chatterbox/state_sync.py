"""Baseline: state synchronisation in the manner of Mosh (SSP).

Sends the difference between what was last acknowledged and the current state, at most one packet per max(srtt / 2, 20 ms) and,
while something is owed, at least four a second. It differs from Chatterbox in the pacing alone, so it is built from its sender.
"""

from chatterbox.core import Sender, Settings

MIN_INTERVAL_S = 0.02
MAX_INTERVAL_S = 0.25


class StateSyncSender(Sender):
    """Chatterbox's sender with Mosh's frame interval."""

    def __init__(self, settings: Settings | None = None, stream: int = 0) -> None:
        super().__init__(settings, stream)
        self._last_sent_s = -1.0

    @property
    def interval_s(self) -> float:
        """The shortest time between two packets."""
        srtt_s = self.round_trip.srtt_s
        return MAX_INTERVAL_S if srtt_s is None else min(MAX_INTERVAL_S, max(srtt_s / 2, MIN_INTERVAL_S))

    def next_timer(self) -> float | None:
        """See `TokenSender`."""
        due_s = super().next_timer()
        return None if due_s is None else max(due_s, self._last_sent_s + self.interval_s)

    def packets(self, now: float) -> list[bytes]:
        """See `TokenSender`."""
        if now < self._last_sent_s + self.interval_s:
            return []
        sent = super().packets(now)
        if sent:
            self._last_sent_s = now
            assert self._deadline_s is not None
            self._deadline_s = min(self._deadline_s, now + max(MAX_INTERVAL_S, self.interval_s))
        return sent
