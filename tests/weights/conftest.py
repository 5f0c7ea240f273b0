"""What tests of weight files share."""

import pytest
from helpers import draw_variables

from jaxft.models import create_model


@pytest.fixture(scope="session")
def toy():
    """Returns a network of 1,343 parameters, and its variables; tests do not change them."""
    model = create_model("toy", num_classes=3)
    return model, draw_variables(model, 8)
