"""What a companion has to say, for whoever carries it into another loop."""

from typing import Any

from frostline.integrations.companion import Companion


class Reporting:
    """The bill, what trained and what was forgotten."""

    companion: Companion

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The bill: a row for each phase of each task."""
        return [dict(vars(row)) for row in self.companion.meter.rows]

    @property
    def trained(self) -> list[list[str]]:
        """The names of the parameters that trained, a list for each task."""
        return self.companion.result()["trained"]

    @property
    def forgetting(self) -> dict[str, float]:
        """By how much the loss on each held-out set has risen, nats a target."""
        return self.companion.forgetting

    def result(self) -> dict[str, Any]:
        """Return what trained, what it cost and what it forgot, as plain values."""
        return self.companion.result()
