"""Can a design, and the EEG recorded in it, support a claim?

`audit_design` looks at the schedule alone, `run_controls` at what could have given the score.
"""

from importlib import import_module

_HOME = {
    "audit_design": "design",
    "DesignAudit": "design",
    "run_controls": "controls",
    "Controls": "controls",
    "controls_table": "controls",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'brainedit.audit' has no attribute {name!r}")
    return getattr(import_module(f"brainedit.audit.{_HOME[name]}"), name)
