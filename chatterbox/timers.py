"""Round-trip estimation and retransmission timeouts, shared by Chatterbox and the UDP baselines (RFC 6298)."""

import dataclasses


@dataclasses.dataclass
class RoundTrip:
    """Smoothed round-trip time and the probe timeout that follows from it.

    Attributes:
        min_pto_s: lower bound of the timeout before backoff.
        max_pto_s: upper bound with backoff.
        initial_pto_s: timeout before the first sample.
        srtt_s, rttvar_s: estimate; srtt_s is None before the first sample.
        backoff: factor that doubles with each timeout, at most 16, and is 1 again after progress.
    """

    min_pto_s: float = 0.05
    max_pto_s: float = 2.0
    initial_pto_s: float = 1.0
    srtt_s: float | None = None
    rttvar_s: float = 0.0
    backoff: int = 1

    def sample(self, rtt_s: float) -> None:
        """Take in one round trip (s). Packet numbers are never reused, so every sample is unambiguous."""
        if self.srtt_s is None:
            self.srtt_s, self.rttvar_s = rtt_s, rtt_s / 2
        else:
            self.rttvar_s = 0.75 * self.rttvar_s + 0.25 * abs(self.srtt_s - rtt_s)
            self.srtt_s = 0.875 * self.srtt_s + 0.125 * rtt_s

    @property
    def pto_s(self) -> float:
        """How long to wait for an acknowledgement before sending again."""
        base_s = self.initial_pto_s if self.srtt_s is None else self.srtt_s + 4 * self.rttvar_s
        return min(self.max_pto_s, self.backoff * max(self.min_pto_s, base_s))

    def on_timeout(self) -> None:
        """A timeout has passed without progress."""
        self.backoff = min(2 * self.backoff, 16)

    def on_progress(self) -> None:
        """The peer has acknowledged something new."""
        self.backoff = 1
