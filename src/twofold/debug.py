"""Looking inside: where a NaN or a wrong in-place write comes from."""

from .autodiff.anomaly import detect_anomaly, set_detect_anomaly

__all__ = ["detect_anomaly", "set_detect_anomaly"]
