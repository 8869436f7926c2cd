import pytest

from chatterbox.load import measure
from common.errors import DataUnavailable


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_every_stream_of_many_is_finished(kind):
    load = measure(kind, 20, 10, 50.0)
    assert load.finished == 20
    assert 0 < load.cpu_s_per_token < 1


def test_too_many_sockets_are_refused():
    with pytest.raises(DataUnavailable, match="ulimit"):
        measure("udp", 10**9, 1, 1.0)
