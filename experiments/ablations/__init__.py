"""What matters for a distilled solver: a table, a CSV file and a plot per question."""
