"""What a run is: its flags, processes, signals and errors, its folder and its lock."""
