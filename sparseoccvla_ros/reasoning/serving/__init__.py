"""Question answering that runs concurrently with frame processing."""
