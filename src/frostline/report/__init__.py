"""What a person reads: tables, figures, comparisons."""
