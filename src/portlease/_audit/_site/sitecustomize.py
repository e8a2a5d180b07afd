"""Found in PYTHONPATH before anybody else's of this name: loads the hook, and then that one.

Any Python may come by, so this must be good for all of them: the old have no audit hooks, and are
left alone. Nothing of it stays but the hook: not our folder in sys.path, nor, where there is
another sitecustomize, this module.
"""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
try:
    if hasattr(sys, "addaudithook") and os.environ.get("PORTLEASE_TRAIL"):
        import _portlease_hook  # type: ignore[import-not-found] # beside us

        _portlease_hook.install()
finally:
    sys.path[:] = [_path for _path in sys.path if os.path.abspath(_path) != _here]
    _ours = sys.modules.pop(__name__, None)
    try:
        import sitecustomize  # type: ignore[import-not-found] # noqa: F401 - the user's own
    except ImportError as _error:
        if getattr(_error, "name", __name__) != __name__:  # Python 2 does not tell
            raise
    finally:
        # The import that is under way wants to find it.
        if _ours is not None:
            sys.modules.setdefault(__name__, _ours)
