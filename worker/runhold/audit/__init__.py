"""The export of a run as one file, sealed by a chain of hashes, and the check of such a file.

No database and no network: ``docs/reference/export.md`` has the same check as a program of its own.
"""

from __future__ import annotations

from runhold.audit.chain import FORMAT, Sealed, seal
from runhold.audit.findings import Finding, Harm, NotAnExport, Report
from runhold.audit.verify import verify

__all__ = ["FORMAT", "Finding", "Harm", "NotAnExport", "Report", "Sealed", "seal", "verify"]
