"""What names and tables say of mixtures, and tables that do not fit."""

import pytest

from deepnmf_cli.errors import CorpusError
from deepnmf_cli.scoring.mixtures import Mixture, factors, known_mixtures, remarks_on, table_of


def test_snr_speaker_and_noise_are_read_from_names():
    snrs_db = {"003_+3dB_street": 3, "004_-6dB_a": -6, "a_2.5dB_b": 2.5, "9dB": 9, "town/1_0dB": 0}
    found = known_mixtures([*snrs_db, "street", "3dBA", "x+3dB", f"a_{'9' * 400}dB"])
    assert found == {name: Mixture(snr_db) for name, snr_db in snrs_db.items()}
    assert known_mixtures(["7_+3dB_p232_street_at-night"]) == {
        "7_+3dB_p232_street_at-night": Mixture(3, "p232", "street_at-night")
    }


def test_a_table_says_what_is_known(tmp_path):
    table = tmp_path / "snr.csv"
    table.write_text(
        "\ufeffname,speaker,snr_db,language,other\na.wav,p1,17.5,nl,x\nb.1,p2,-2,,y\nother,p3,0,,\n", encoding="utf-8"
    )
    assert known_mixtures(["a", "b.1"], table) == {
        "a": Mixture(17.5, "p1", None, {"language": "nl"}),
        "b.1": Mixture(-2, "p2"),
    }
    with pytest.raises(CorpusError, match="no row for 1 of 2 files, the first being 'c'"):
        known_mixtures(["a", "c"], table)
    table.write_text("name,noise\na,rain\n")
    assert known_mixtures(["a"], table) == {"a": Mixture(noise="rain")}


def test_columns_that_look_misspelt_are_told(tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("name,speker,SNR_dB,noise,noises,date,Room\na,p1,3,rain,x,y,z\n")
    assert remarks_on(table) == [
        "m.csv: the column 'Room' is not used; 'room' would be",
        "m.csv: the column 'SNR_dB' is not used; 'snr_db' would be",
        "m.csv: the column 'speker' is not used; 'speaker' would be",
    ]
    table.write_text("name,snr_db,speaker,noise,sex,language,noise_kind,room,other,\n")
    assert remarks_on(table) == []


def test_a_table_beside_the_references_is_found(tmp_path):
    (tmp_path / "clean").mkdir()
    assert table_of(tmp_path / "clean") is None
    (tmp_path / "mixtures.csv").write_text("name,snr_db\n")
    assert table_of(tmp_path / "clean") == tmp_path / "mixtures.csv"


def test_clusters_are_what_is_known_of_all():
    both = [Mixture(0, "p1", "rain"), Mixture(0, "p2", "rain")]
    assert factors(both) == {"speaker": ["p1", "p2"], "noise": ["rain", "rain"]}
    assert factors([*both, Mixture(0, "p3")]) == {"speaker": ["p1", "p2", "p3"]}
    assert factors([*both, Mixture()]) == factors([]) == {}


@pytest.mark.parametrize(
    "content, found",
    [
        ("", r"the columns \(none\)"),
        ("file,snr_db\na,3\n", "the columns file, snr_db"),
        ("name,snr_db\na,3\nb,loud\n", "'loud' as snr_db in line 3"),
        ("name,snr_db\na\n", "None as snr_db in line 2"),
        ("name,snr_db\na,nan\n", "'nan' as snr_db in line 2"),
        (b"\xff\xfe\x00", "no readable CSV file"),
        ("name,snr_db\na,3\na.wav,4\n", "a second row for 'a' in line 3"),
        ("name,snr_db,snr_db\na,3,4\n", "the column 'snr_db' twice"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, content, found):
    table = tmp_path / "snr.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorpusError, match=f"snr.csv: found {found}"):
        known_mixtures(["a"], table)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="no readable CSV file"):
        known_mixtures(["a"], tmp_path / "gone.csv")
