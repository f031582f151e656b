"""Sampling features of the previous frame, fused with what follows it: one interface, one choice per device.

``epipolar_cost`` is nine tenths of an iteration when done plainly: it reads 64 channels at 51 places of every
pixel and writes them all to memory before they are averaged. The fused versions never write them.
"""

from dualrefine_ros.model.sampling.choice import NAMES, PLAIN, Sampler, choose

__all__ = ["NAMES", "PLAIN", "Sampler", "choose"]
