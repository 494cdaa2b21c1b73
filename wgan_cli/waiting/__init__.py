"""How OpenMP's threads wait for each other.

Torch divides each operation among threads, which meet at a barrier after it: more than a hundred
times in a step of a small network. A thread that comes first can spin, that is ask again and again
whether the others have come. On an idle machine this is fastest. If other programs use the cores,
a thread that spins takes the core that the last thread needs, and a step becomes tens of times
slower. A thread that sleeps instead frees its core, but waking it up takes as long as many of the
operations.

So here threads spin for a short time on an idle machine, and sleep at once on a busy one.
`policy` sets this up before torch is imported, `load` measures how busy the machine is, and
`monitor` switches. How threads wait changes no result.
"""
