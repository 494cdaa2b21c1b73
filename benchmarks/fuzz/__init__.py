"""Random commands, configs and run folders against all console scripts: python -m benchmarks.fuzz.

Each case is drawn from (seed, number) alone, runs in an empty folder of its own, and is judged from
outside: by its exit code, what it says, what it leaves, and what its process was seen to do.
"""
