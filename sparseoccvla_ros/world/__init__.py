"""The synthetic world: roads, agents, shapes, rendering, labels and questions."""
