"""Where results lie: case folders, checkpoints, traces, and URLs to publish to and read from."""
