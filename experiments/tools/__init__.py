"""Programs for those who work on the library: timings, kills, pod slices."""
