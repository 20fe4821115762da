"""What everything stands on: samples and tasks, scopes, metrics, memories, importance, checks."""
