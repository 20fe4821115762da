"""What a run leaves behind: results, checkpoints, tables for a spreadsheet, Weights & Biases."""
