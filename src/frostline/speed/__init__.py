"""What makes a run faster and changes no number, up to rounding."""
