"""The console scripts: parse, call, print."""
