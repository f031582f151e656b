"""The exceptions of tf2; catch :class:`TransformException` for all of them."""


class TransformException(Exception):
    """Base of all exceptions of tf2."""


class LookupException(TransformException):
    """A frame is unknown."""


class ConnectivityException(TransformException):
    """Both frames are known, but they are in different trees."""


class ExtrapolationException(TransformException):
    """The time asked for is outside what the buffer holds; tf2 interpolates only."""


class InvalidArgumentException(TransformException):
    """A frame name is empty."""
