"""Scalars that count their own operations."""

import math


class Counting:
    """A number that counts what is done with it."""

    counts: dict

    def __init__(self, value):
        self.value = float(value)

    def __float__(self):
        return self.value

    def _do(name, function):
        def method(self, other=None):
            Counting.counts[name] = Counting.counts.get(name, 0) + 1
            other = other.value if isinstance(other, Counting) else other
            return Counting(function(self.value, other))

        return method

    __add__ = __radd__ = _do("add", lambda a, b: a + b)
    __sub__ = _do("add", lambda a, b: a - b)
    __rsub__ = _do("add", lambda a, b: b - a)
    __mul__ = __rmul__ = _do("mul", lambda a, b: a * float(b))
    __truediv__ = _do("div", lambda a, b: a / b)
    __rtruediv__ = _do("div", lambda a, b: b / a)
    exp = _do("exp", lambda a, _: math.exp(a))
    log = _do("log", lambda a, _: math.log(a))
    sqrt = _do("sqrt", lambda a, _: math.sqrt(a))
    tanh = _do("tanh", lambda a, _: math.tanh(a))
    erf = _do("erf", lambda a, _: math.erf(a))

    def __neg__(self):
        return Counting(-self.value)  # a sign costs nothing

    def _compare(function):
        def method(self, other):
            Counting.counts["cmp"] = Counting.counts.get("cmp", 0) + 1
            return function(self.value, other.value if isinstance(other, Counting) else other)

        return method

    __lt__ = _compare(lambda a, b: a < b)
    __gt__ = _compare(lambda a, b: a > b)
    __le__ = _compare(lambda a, b: a <= b)
    __ge__ = _compare(lambda a, b: a >= b)
