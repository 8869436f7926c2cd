"""What the harness keeps of a method's candidates."""

import dataclasses

from chameleonapi.harness import Judged


def test_other_candidates_have_curves_of_their_own():
    judged = Judged(None, ["first", "second"], [])
    judged._curves[5] = ["of both"]
    alone = dataclasses.replace(judged, candidates=["second"])
    assert alone._curves == {}
    assert judged._curves == {5: ["of both"]}
