"""A drill strikes where there is something to strike."""
import importlib

import pytest

from tests.faults import victim


@pytest.mark.parametrize('place', victim.PLACES)
def test_every_place_is_there(place):
  module, function = victim.PLACES[place]
  assert callable(getattr(importlib.import_module(module), function))
