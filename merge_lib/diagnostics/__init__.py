"""What a merge removed: audits as tables, and what can be said of them in short."""

from merge_lib.diagnostics.auditing import audit
from merge_lib.diagnostics.table import read_table, write_table

__all__ = ["audit", "read_table", "write_table"]
