"""Names that are loaded when first used."""

from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["tadp", "tadp.datasets", "tadp.metrics"])
def test_every_name_of_a_package_is_there_and_no_other(name):
    package = import_module(name)
    assert dir(package) == sorted(package.__all__)
    for attribute in package.__all__:
        assert getattr(package, attribute) is not None
    with pytest.raises(AttributeError, match=rf"'{name}' has no attribute 'nothing'; it has {package.__all__[0]}"):
        _ = package.nothing
