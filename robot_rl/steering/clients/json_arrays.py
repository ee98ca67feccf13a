"""JSON with numpy arrays as the package json_numpy writes them, and nothing else.

An array is `{"__numpy__": BASE64, "dtype": DESCR, "shape": [..]}`, C order (read in simpler-env/SimplerEnv,
simpler_env/policies/octo/octo_server_model.py, commit 62f9e8d, which contains a copy of it).
"""

import base64
import binascii
import json
import math
from typing import Any

import numpy as np

from robot_rl.steering.wire import DTYPES, MAXIMUM_AXES, WireError

ARRAY = "__numpy__"


def dumps(value: Any) -> str:
    """The text of a value.

    Raises:
        WireError: it holds something else than numbers, text, arrays, lists and maps with text as keys.
    """
    try:
        return json.dumps(value, default=_encode)
    except (TypeError, ValueError) as error:
        raise WireError(f"this cannot be sent: {error}") from error


def loads(text: str | bytes) -> Any:
    """The value in a text; arrays are copies.

    Raises:
        WireError: no JSON, or an array whose bytes do not fit its shape.
    """
    try:
        return json.loads(text, object_hook=_decode)
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise WireError(f"no JSON ({type(error).__name__}: {str(error)[:200]})") from error


def _encode(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray | np.generic) or DTYPES.fullmatch(value.dtype.str) is None:
        kind = value.dtype if isinstance(value, np.ndarray | np.generic) else type(value).__name__
        raise TypeError(f"a value of the type {kind} has no place in a message")
    data = base64.b64encode(value.tobytes()).decode("ascii")
    return {ARRAY: data, "dtype": value.dtype.str, "shape": list(value.shape)}


def _decode(items: dict[str, Any]) -> Any:
    if ARRAY not in items:
        return items
    data, name, shape = items[ARRAY], items.get("dtype"), items.get("shape")
    if not isinstance(name, str) or DTYPES.fullmatch(name) is None:
        raise WireError(f"arrays of the type {name!r:.40} are not taken")
    if not isinstance(shape, list) or len(shape) > MAXIMUM_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError(f"{shape!r:.60} is no shape of an array")
    try:
        raw, dtype = base64.b64decode(data, validate=True), np.dtype(name)
    except (binascii.Error, TypeError, ValueError) as error:
        raise WireError(f"an array cannot be read: {error}") from error
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise WireError(f"an array of shape {shape} and type {dtype.str} does not have {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape).copy()
