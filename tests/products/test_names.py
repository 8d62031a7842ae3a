"""Sentinel-1 names: real ones, round trips through the formatter, and names that only look like one."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from groundswell.products.names import MeasurementName, metadata_from_path, parse_measurement

names = st.builds(
    lambda mission, beam, kind, polarisation, start, seconds, orbit, datatake, number: MeasurementName(
        mission, beam, kind, polarisation, start, start + timedelta(seconds=seconds), orbit, datatake, number
    ),
    st.sampled_from([f"S1{c}" for c in "ABCDEZ"]),
    st.sampled_from(["WV1", "WV2", "IW", "IW1", "IW3", "EW", "EW5", "S1", "S6"]),
    st.sampled_from(["SLC", "GRD", "OCN", "QL"]),
    st.sampled_from(["HH", "HV", "VH", "VV"]),
    st.datetimes(datetime(2014, 1, 1), datetime(2099, 1, 1)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC)),
    st.integers(0, 60),
    st.integers(0, 999_999),
    st.integers(0, 0xFFFFFF).map(lambda n: f"{n:06X}"),
    st.integers(0, 999),
)


def test_a_real_wave_mode_name() -> None:
    name = parse_measurement("s1b-wv1-slc-vv-20210403t083025-20210403t083028-026300-032390-001.tiff")
    assert name == MeasurementName(
        "S1B",
        "WV1",
        "SLC",
        "VV",
        datetime(2021, 4, 3, 8, 30, 25, tzinfo=UTC),
        datetime(2021, 4, 3, 8, 30, 28, tzinfo=UTC),
        26300,
        "032390",
        1,
    )
    assert name.mode == "WV"


@given(names, st.sampled_from(["", ".png", "_crop2.npy", "-VV.tif"]))
def test_round_trip(name: MeasurementName, rest: str) -> None:
    assert parse_measurement(name.stem + rest) == name
    assert parse_measurement(name.stem.upper() + rest) == name


@given(names, st.integers(0, 90), st.sampled_from(list("0-x_")))
def test_a_damaged_name_is_never_half_read(name: MeasurementName, at: int, letter: str) -> None:
    # Whatever one letter is changed to, the name is either refused or read as what it now says.
    at %= len(name.stem)
    damaged = name.stem[:at] + letter + name.stem[at + 1 :]
    read = parse_measurement(damaged)
    assert read is None or read.stem.lower() == damaged.lower()[: len(read.stem)]


def test_names_that_are_no_measurement() -> None:
    good = "s1a-wv2-QL-vv-20190127t034810-20190127t034813-025657-02d985-058"
    assert parse_measurement(good) is not None
    for bad in (
        good.replace("20190127t034810", "20191327t034810"),  # month 13
        good.replace("20190127t034810", "00190127t034810"),  # before the first satellite
        good.replace("20190127t034813", "20190127t034809"),  # stops before it starts
        good + "4",  # a four-digit image number
        good[1:],
        "x" + good,
        good.replace("wv2", "wv3"),
        "",
        "HB15269.000.jpeg",
    ):
        assert parse_measurement(bad) is None, bad


def test_metadata_of_a_quicklook() -> None:
    facts = metadata_from_path("folder/s1a-wv2-QL-vv-20190127t034810-20190127t034813-025657-02d985-058.png")
    assert facts == {
        "mission": "S1A",
        "beam": "WV2",
        "mode": "WV",
        "polarisations": "VV",
        "time": datetime(2019, 1, 27, 3, 48, 11, 500_000, tzinfo=UTC),
        "orbit": 25657,
        "datatake": "02D985",
        "image_number": 58,
        "group": "S1A-02D985",
    }


def test_metadata_of_a_chip_inside_a_product_folder() -> None:
    product = "S1A_IW_GRDH_1SDV_20150823T221233_20150823T221258_007396_00A2CA_54D0"
    for folder in (product, product + ".SAFE"):
        facts = metadata_from_path(f"products/{folder}/Patch_Cal/Cargo_x1673_y6973.tif")
        assert facts["product_id"] == product
        assert (facts["mission"], facts["mode"], facts["orbit"], facts["datatake"]) == ("S1A", "IW", 7396, "00A2CA")
        assert facts["group"] == "S1A-00A2CA"
    assert metadata_from_path("a/b/c.png") == {}


def test_every_real_name_is_read(real_data) -> None:  # type: ignore[no-untyped-def]
    stems = [p.stem for p in real_data.rglob("s1?-*") if p.suffix in (".png", ".tiff", ".nc")]
    assert len(stems) >= 20
    assert [s for s in stems if (name := parse_measurement(s)) is None or name.stem != s] == []
    products = [p.name for p in real_data.glob("safe-fixtures/*.SAFE")]
    assert len(products) == 5
    assert [p for p in products if metadata_from_path(p + "/manifest.safe").get("product_id") != p[:-5]] == []
