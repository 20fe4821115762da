"""Energy and carbon through CodeCarbon's offline tracker: one task of the tracker per measured stretch."""

import logging
from typing import Any

from frostline.core.checks import UsageError, one_of


class EnergyMeter:
    """Measure joules and kg CO2e between start and stop; a stretch that is paused is simply several stretches.

    source: 'nvml' or 'rapl' where the hardware counts, 'estimate' where CodeCarbon models the power from the load
    (on most rented machines the counters are hidden).
    """

    def __init__(self, country_iso_code: str):
        logging.getLogger("codecarbon").setLevel(logging.ERROR)
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.input import DataSource

        one_of("cost.country_iso_code", country_iso_code, DataSource().get_global_energy_mix_data())
        self._count = 0
        try:
            self._tracker: Any = OfflineEmissionsTracker(
                country_iso_code=country_iso_code,
                save_to_file=False,
                log_level="error",
                allow_multiple_runs=True,
            )
            self.start()  # hardware is looked for at the first start: two seconds that belong to no phase
            self.stop()
        except Exception as error:
            raise UsageError(
                f"cost.energy=codecarbon: CodeCarbon cannot measure here ({error}). Use cost.energy=off."
            ) from error
        self.source = self._find_source()

    def _find_source(self) -> str:
        kinds = {type(h).__name__ for h in self._tracker._hardware}
        if "GPU" in kinds:
            return "nvml"
        modes = {str(getattr(h, "_mode", "")) for h in self._tracker._hardware}
        return "rapl" if any("rapl" in mode for mode in modes) else "estimate"

    def start(self) -> None:
        """Begin a stretch."""
        self._count += 1
        self._tracker.start_task(f"stretch-{self._count}")

    def stop(self) -> tuple[float, float]:
        """End it; return joules and kg CO2e."""
        data = self._tracker.stop_task()
        self._tracker._tasks.clear()  # it keeps every task for its own report, which we do not write
        return float(data.energy_consumed) * 3.6e6, float(data.emissions)

    def close(self) -> None:
        """Let the tracker end its threads."""
        self._tracker.stop()
