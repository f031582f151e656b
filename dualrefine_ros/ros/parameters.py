"""One declaration per parameter: a field of a frozen dataclass, mirrored to ROS with its descriptor.

@dataclass(frozen=True)
class Config:
    rate: float = parameter(10.0, "Frames a second.", minimum=0.1, run_time=True)

config = declare(node, Config)  # declared on the node, overrides applied, checked
config = changed(config, [Parameter("rate", value=5.0)])  # in the node's callback for changes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, TypeVar, cast

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException, ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from dualrefine_ros.errors import ConfigError

Value = TypeVar("Value", bool, int, float, str)
Config = TypeVar("Config")


@dataclass(frozen=True)
class _Specification:
    description: str
    minimum: int | float | None
    maximum: int | float | None
    choices: tuple[str, ...]
    run_time: bool
    name: str


def parameter(
    default: Value,
    description: str,
    *,
    minimum: int | float | None = None,
    maximum: int | float | None = None,
    choices: Iterable[str] = (),
    run_time: bool = False,
    name: str = "",
) -> Value:
    """A dataclass field that is a ROS parameter.

    Args:
        default: also gives the type.
        description: shown by ``ros2 param describe``; a whole sentence, with the unit.
        minimum, maximum: the range of a number; both or neither.
        choices: every allowed value of a string, where they can be listed.
        run_time: may be changed while the node runs; all others are read-only.
        name: in ROS, where it is not the field's (``scale.mode``).
    """
    specification = _Specification(description, minimum, maximum, tuple(choices), run_time, name)
    return cast(Value, field(default=default, metadata={"parameter": specification}))


def ros_name(item: Field[Any]) -> str:
    """The name of the parameter that a field declared with :func:`parameter` is."""
    return item.metadata["parameter"].name or item.name


def descriptor(item: Field[Any]) -> ParameterDescriptor:
    """What ``ros2 param describe`` shows of a field declared with :func:`parameter`."""
    specification: _Specification = item.metadata["parameter"]
    message = ParameterDescriptor(
        name=ros_name(item),
        description=specification.description,
        additional_constraints=(
            f"One of: {', '.join(specification.choices)}." if specification.choices else ""
        ),
        read_only=not specification.run_time,
    )
    low, high = specification.minimum, specification.maximum
    if low is not None and high is not None:
        if isinstance(item.default, int):
            message.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            message.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    return message


def declare(node: Node, config_class: type[Config]) -> Config:
    """Declare every field on the node and return the values it was started with.

    Raises:
        ConfigError: a value has the wrong type, is out of range or not among the choices.
    """
    values = {item.name: _declare_field(node, item) for item in fields(cast(Any, config_class))}
    _check_choices(config_class, values)
    return config_class(**values)


def _declare_field(node: Node, item: Field[Any]) -> Any:
    try:
        return node.declare_parameter(ros_name(item), item.default, descriptor(item)).value
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise ConfigError(f"Parameter '{ros_name(item)}' must be {_what_is_allowed(item)}.") from error


def _what_is_allowed(item: Field[Any]) -> str:
    specification: _Specification = item.metadata["parameter"]
    kind = {
        bool: "true or false",
        int: "a whole number",
        float: "a number with a decimal point (1.0, not 1)",
        str: "text (in quotes, should it look like a number)",
    }[type(item.default)]
    if specification.minimum is None:
        return kind
    return f"{kind} from {specification.minimum:g} to {specification.maximum:g}"


def resolved(node: Node, topic: str) -> str:
    """The full name of a topic, after remapping.

    Raises:
        ConfigError: it is none.
    """
    try:
        return node.resolve_topic_name(topic)
    except RuntimeError as error:
        reason = str(error).partition(", at /")[0]
        raise ConfigError(f"Invalid topic name '{topic}' ({reason}): name another.") from error


@contextmanager
def qos_of(node: Node, topic: str) -> Iterator[None]:
    """Where a publisher or subscription is made with overrides of its QoS.

    Raises:
        ConfigError: one of the topic's parameters ``qos_overrides.*`` cannot be used, or its name cannot.
    """
    name = resolved(node, topic)
    try:
        yield
    except (ParameterException, AssertionError, RuntimeError, TypeError, ValueError) as error:  # rclpy's all
        raise ConfigError(
            f"The topic {name} cannot be used with its parameters 'qos_overrides.{name}.*' ({error}): "
            "correct them."
        ) from error


def changed(config: Config, parameters: Iterable[Parameter]) -> Config:
    """``config`` with the parameters that belong to it replaced.

    Raises:
        ConfigError: a value is not among the choices (ranges and read-only ones ROS itself refuses).
    """
    names = {ros_name(item): item.name for item in fields(cast(Any, config))}
    values = {names[p.name]: p.value for p in parameters if p.name in names}
    _check_choices(type(config), values)
    return cast(Config, replace(cast(Any, config), **values))


def _check_choices(config_class: type, values: dict[str, Any]) -> None:
    for item in fields(config_class):
        choices = item.metadata["parameter"].choices
        if choices and item.name in values and values[item.name] not in choices:
            raise ConfigError(
                f"Parameter '{ros_name(item)}' must be one of {', '.join(choices)}, "
                f"not '{values[item.name]}'."
            )
