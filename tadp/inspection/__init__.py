"""Look at a data set before training: what is in it, what is wrong with it, and what to do about that.

    inspection = inspect("export", output="look")  # writes look/sheet.png and look/inspection.json
    print(inspection)

`tadp data export -o look` does the same on the command line.
"""

from tadp.inspection.inspecting import inspect as inspect
from tadp.inspection.inspection_report import ClassCount as ClassCount
from tadp.inspection.inspection_report import DepthRange as DepthRange
from tadp.inspection.inspection_report import Finding as Finding
from tadp.inspection.inspection_report import Inspection as Inspection

__all__ = ["ClassCount", "DepthRange", "Finding", "Inspection", "inspect"]
