"""Other switches to be measured beside: started, spoken to, and given the same CPUs by turns."""
