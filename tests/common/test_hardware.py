"""Machine facts and device profiles."""

import json
import math
import subprocess
import sys

import pytest

from common.errors import ConfigError, UnknownName
from common.hardware import DEVICES, DeviceProfile, machine_facts


def test_facts_are_plain_json_and_plausible():
    facts = machine_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu_model"]
    assert 1 <= facts["cpu_cores"] <= facts["cpu_threads"]
    assert facts["ram_bytes"] > 2**28
    assert facts["versions"]["numpy"]


def test_facts_need_no_torch():
    code = "import sys; from common.hardware import machine_facts; machine_facts(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_read_time_and_price_by_hand():
    device = DeviceProfile("d", 2e9, 0.01, 0.5)
    assert device.read_s(4e9, reads=3) == pytest.approx(0.03 + 2.0)
    assert device.keep_usd(6e9, 15 * 86400) == pytest.approx(6 * 0.5 / 2)
    assert DeviceProfile("free", math.inf).read_s(1e12) == 0


def test_named_devices_get_cheaper_as_they_get_slower():
    devices = [DEVICES.get(name) for name in DEVICES]
    speeds = [device.read_bytes_per_s for device in devices]
    prices = [device.usd_per_gb_month for device in devices]
    assert speeds == sorted(speeds, reverse=True)
    assert prices == sorted(prices, reverse=True)
    with pytest.raises(UnknownName, match="nvme_ssd"):
        DEVICES.get("nvme_sdd")


@pytest.mark.parametrize("values", [(0.0, 0, 0), (-1.0, 0, 0), (math.nan, 0, 0), (1.0, -1, 0), (1.0, 0, -1)])
def test_impossible_devices_are_refused(values):
    with pytest.raises(ConfigError, match="'d'"):
        DeviceProfile("d", *values)
