"""The Open_vSwitch database as the source of what is wanted, and as the place where it is told what became of it."""
