"""A model of one's own, as the README has it."""

import numpy as np

from dfkde import AnomalyDetector


class Centroid(AnomalyDetector):
    """Distance to the mean of the training features."""

    def _fit(self, X):
        self.mean_ = X.mean(axis=0)

    def _score_samples(self, X):
        return -np.linalg.norm(X - self.mean_, axis=1)

    def centred_(self, X):
        """Subtract the mean."""
        return X - self.mean_

    @property
    def norm_(self):
        """The mean's norm."""
        return float(np.linalg.norm(self.mean_))
