"""Every error this package raises on purpose derives from :class:`DualRefineError`.

The message of such an error is one sentence for the user: what is wrong and what to do. Command-line
programs print it and exit with status 2; the node logs it.
"""


class DualRefineError(Exception):
    """Base of all errors raised by dualrefine_ros."""


class CheckpointError(DualRefineError):
    """A checkpoint file is missing, damaged, or does not fit the network."""


class InputError(DualRefineError):
    """An image, a calibration or another input of the engine cannot be used."""


class DataError(DualRefineError):
    """A dataset, recording or trajectory file is missing or malformed; names file and line."""


class MessageError(DualRefineError):
    """A ROS message cannot be converted; names the field at fault."""


class ConfigError(DualRefineError):
    """A setting is out of range or contradicts another one."""


class DeviceError(DualRefineError):
    """The device failed: out of memory, or lost. The frame at hand has no answer; nothing else is lost."""
