"""A virtual machine in Python: the driver's side of a virtio network device whose back end speaks vhost-user."""
