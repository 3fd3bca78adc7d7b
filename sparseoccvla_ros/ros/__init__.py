"""Messages, topics, parameters, QoS, diagnostics and the base of every lifecycle node."""
