"""What a trainer reaches for how many field calls, beside another."""
