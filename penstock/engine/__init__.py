"""The engine process: port life cycle, worker threads, the message socket. ``client`` is what the rooms above use."""
