"""Where in a model the penalty acts: finding sites, checking them, hooking them.

A *site* is a module whose output (or input) holds the vectors that are penalised. `find_sites` finds the sites of a model by
tracing one forward pass; `Sites.verify` tests what it found. Not here: the penalty itself (`hf_radial.penalty`).

- `find.py`: the sites of a model, found or named; `finder.py`: what is found in one trace.
- `trace.py`, `graph.py`, `residual.py`: one recorded forward pass, and the residual stream in it.
- `site.py`: one site. `verify.py`: the check. `hooks.py`: hooks at sites. `preserve.py`: random state and modes kept.
"""

from hf_radial.sites.find import WHERE, ForwardFailedError, Sites, find_sites
from hf_radial.sites.site import Site

__all__ = ["WHERE", "ForwardFailedError", "Site", "Sites", "find_sites"]
