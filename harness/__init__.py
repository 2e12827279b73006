"""The reference benchmark for DFKDE: sweeps, records and tables."""

__version__ = "0.1.0"
