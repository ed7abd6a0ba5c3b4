"""What loads the switch and watches what comes out: the virtio guest in Python, and compiled traffic on any port."""
