"""The machine of a run: devices, processes, memory, and device calls of bounded length.

Nothing here knows of bodies, networks or options.
"""
