"""The console scripts: parse the command line, call the package, print the result."""
