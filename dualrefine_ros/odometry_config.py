"""Everything that can be set about the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral

from dualrefine_ros.covariance import CovarianceConfig
from dualrefine_ros.devices import ON_DEVICE_ERROR
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.gates import ImageGate, MotionLimits, StillGate
from dualrefine_ros.observation import PRECISIONS
from dualrefine_ros.scale import ScaleConfig

BACKENDS = ("torch", "onnx")
MAX_ITERATIONS = 100  # far beyond where anything still changes


@dataclass(frozen=True)
class OdometryConfig:
    """How the engine runs the network, and what it makes of the answers.

    Raises:
        ConfigError: a value is out of range.
    """

    iterations: int = 6  # refinement iterations; 0 is the teacher alone
    device: str = "auto"  # auto (CUDA if present, else CPU), cpu, cuda, cuda:1 ...
    backend: str = "torch"  # what runs the network: torch, or onnx (onnxruntime, CPU, float32)
    precision: str = "float32"  # of the convolutions: float32, bfloat16, float16
    solver_tolerance: float = 0.0  # relative residual at which iterating stops early; 0 never does
    on_device_error: str = "retry"  # retry (then refuse the frame), cpu (go on there) or fail
    max_gap: float = 1.0  # seconds without a usable frame, after which a new pair begins
    min_flow: float = 0.0  # pixels of network input before another frame is matched with; for fast cameras
    images: ImageGate = field(default_factory=ImageGate)
    limits: MotionLimits = field(default_factory=MotionLimits)
    still: StillGate = field(default_factory=StillGate)
    covariance: CovarianceConfig = field(default_factory=CovarianceConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)

    def __post_init__(self) -> None:
        check_iterations(self.iterations)
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, not '{self.precision}'.")
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, not '{self.backend}'.")
        if self.backend == "onnx" and (self.precision != "float32" or self.device not in ("auto", "cpu")):
            raise ConfigError("The onnx backend runs on the CPU in float32: leave device and precision so.")
        if not self.solver_tolerance >= 0:
            raise ConfigError(f"solver_tolerance must be 0 or more, not {self.solver_tolerance}.")
        if self.on_device_error not in ON_DEVICE_ERROR:
            raise ConfigError(
                f"on_device_error must be one of {', '.join(ON_DEVICE_ERROR)}, not '{self.on_device_error}'."
            )
        if not (self.max_gap > 0 and self.min_flow >= 0):
            raise ConfigError("max_gap must be positive and min_flow 0 or more.")


def check_iterations(value: int) -> None:
    """Raises ConfigError where it is no number of refinement iterations."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)  # NumPy's integers are whole, too
    if not (whole and 0 <= value <= MAX_ITERATIONS):
        raise ConfigError(f"iterations must be a whole number from 0 to {MAX_ITERATIONS}, not {value}.")
