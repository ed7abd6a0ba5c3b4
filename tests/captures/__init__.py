"""What Open vSwitch's tools and its switch said to each other, recorded once: see README.md."""
