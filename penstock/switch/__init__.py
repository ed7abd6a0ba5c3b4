"""The control side's model of the switch: desired state, what brings the engine to it, and the processes that do so."""
