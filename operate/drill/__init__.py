"""`./ha drill`: faults injected into a live stack on purpose, measured and undone.

`faults.py` has the faults, `run.py` the run, `result.py` what was measured, `page.py` the HTML report.
"""
