"""What tests share: small data, small runs, and the run-time check of shapes."""

from helpers import typecheck

__all__ = ["typecheck"]
