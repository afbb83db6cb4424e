from __future__ import annotations

import pytest

from medp2p.errors import ConfigError
from medp2p.preparation.planning import read_strata, refuse_without_stratum


def test_strata_are_read_like_every_table(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("\ufeffPatient;Sex\n p1 ;f\np2;m\np3;\np1;f\n", encoding="utf-8")
    assert read_strata(table, "SEX") == {"p1": "f", "p2": "m"}


def test_a_patient_of_two_strata_is_refused(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("patient,sex\np1,f\np1,m\n")
    with pytest.raises(ConfigError, match="line 3: p1 has sex 'm', and 'f' before"):
        read_strata(table, "sex")


def test_patients_without_a_stratum_are_named():
    refuse_without_stratum(["p1"], {}, None)
    refuse_without_stratum(["p1"], {"p1": "f"}, "sex")
    names = [f"p{n}" for n in range(1, 8)]
    with pytest.raises(ConfigError, match=r"no value of column sex for patients p2, .*, p5 and 2"):
        refuse_without_stratum(names, {"p1": "f"}, "sex")
