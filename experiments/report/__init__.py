"""What a person sees at the end: tables, plots and sheets of samples."""
