"""Good parts alone -> a subspace of deep features: what it leaves over says how unlike them a part is, and where.

Deep-feature modelling: Ahuja et al., arXiv 1909.11786. Maps by PCA over patch features: SubspaceAD, CVPR 2026.
"""

from hf_inspect.anomaly.fitting import Fitted, Settings, categories, fit
from hf_inspect.anomaly.predictor import AnomalyDetector
from hf_inspect.anomaly.subspace import Fitting, Subspace

__all__ = ["AnomalyDetector", "Fitted", "Fitting", "Settings", "Subspace", "categories", "fit"]
