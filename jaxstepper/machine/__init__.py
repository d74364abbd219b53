"""The machine a run is on: its devices, processes and memory, and how long a device call lasts.

Nothing here knows of bodies, networks or options.
"""
