"""What can be compared: what each column of a run is called, its unit, and whether less of it is better."""

COLUMNS: dict[str, tuple[str, str, bool]] = {  # what a column is called, its unit, whether less is better
    "accuracy": ("average accuracy at the end", "", False),
    "average_incremental_accuracy": ("average incremental accuracy", "", False),
    "learning_accuracy": ("accuracy right after learning", "", False),
    "learned": ("gain by learning a task", "", False),
    "worst_case_accuracy": ("worst-case accuracy", "", False),
    "anytime_accuracy": ("anytime accuracy", "", False),
    "forgetting": ("forgetting", "", True),
    "output_drift": ("output drift", "nats", True),
    "stability_gap": ("stability gap", "", True),
    "intransigence": ("intransigence", "", True),
    "held_out_change": ("change on held-out data", "", False),
    "held_out_loss_rise": ("rise of the loss on held-out data", "", True),
    "loss": ("test loss at the end", "", True),
    "flops": ("operations of learning", "FLOP", True),
    "of_full": ("share of full fine-tuning's operations", "", True),
    "seconds": ("seconds of learning", "s", True),
    "usd": ("price of learning", "USD", True),
    "energy_joules": ("energy of learning", "J", True),
    "co2e_kg": ("carbon of learning", "kg", True),
    "peak_memory_bytes": ("peak memory of learning", "B", True),
    "stored_bytes": ("bytes stored between tasks", "B", True),
}
COSTS = (  # of learning
    "flops", "of_full", "seconds", "usd", "energy_joules", "co2e_kg", "peak_memory_bytes", "stored_bytes",
)  # fmt: skip


def less_is_better(column: str) -> bool:
    """Tell whether a smaller value is the better one."""
    return COLUMNS[column][2]
