import pytest

from common.net.ns3 import bridge
from common.net.ns3_bridge.build import Ns3Unavailable


@pytest.fixture(scope="session")
def ns3():
    """ns-3 through the bridge; skips with the reason where it cannot be had."""
    try:
        return bridge()
    except Ns3Unavailable as error:
        pytest.skip(str(error))
