"""The synthetic world as a source: rendered scenes, drives, bags, questions."""
