"""Pure functions of geometry: cameras, rigid motions, trajectories. Nothing here knows a network."""
