"""OpenFlow 1.0 and 1.3: wire formats, connections, and the agent that turns messages into table writes."""
