"""What ovs-appctl asks of the daemon: a command is a function with a line of registration, in a module of its kind."""
