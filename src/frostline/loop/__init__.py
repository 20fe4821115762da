"""The loop, one step of it, and what a run is made of."""
