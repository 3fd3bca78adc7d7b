"""Messages, topics, parameters, QoS, diagnostics and the base class of the lifecycle nodes."""
