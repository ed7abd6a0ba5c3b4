"""What people look at: captured frames, rates, and what the machine offers."""
