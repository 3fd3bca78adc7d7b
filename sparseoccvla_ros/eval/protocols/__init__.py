"""The open-loop planning protocols of published papers."""
