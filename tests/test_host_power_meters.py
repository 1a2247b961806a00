# SPDX-License-Identifier: MIT
"""Meters with one interface: which one is taken and why, a serial line, a file that grows, a pipe, and bad lines."""

import os
import pty
import time
import tty

import pytest

from host.board.rails import MeterError, Rails
from host.power.external import BAD_LINES, LineMeter, parse_header, split_cells
from host.power.meters import NoMeter, Reading, open_meter

RAIL = {"sensor": "ina226", "rail": "12V", "v": 12.0, "a": 0.5, "mw": 6000.0}
SERVED = Rails("hwmon", "as the board server reads them", lambda: [RAIL])
NOTHING = Rails("none", "the golden device is no board", list)


def lines(*texts, joined=False, columns=None):
    """Return the readings of a meter that sends these pieces, and the meter."""
    pieces = [text.encode() if isinstance(text, str) else text for text in texts]
    meter = LineMeter("csv:x", "made up", lambda: pieces.pop(0), lambda: None, joined, columns)
    found = []
    while pieces:
        found += meter.read()
    return found, meter


def watts(*texts, **options):
    return [round(reading.mw / 1000, 9) for reading in lines(*texts, **options)[0]]


# Which meter


def test_a_device_s_own_sensors_are_taken():
    meter = open_meter("auto", SERVED, remote=True)
    assert (meter.source, meter.reason, meter.measures) == ("hwmon", "as the board server reads them", True)
    assert meter.read() == [Reading("12V", 6000.0, 12.0, 0.5)]
    assert open_meter("hwmon", SERVED, remote=True).source == "hwmon"
    meter.close()


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_without_a_sensor_there_is_none(choice):
    meter = open_meter(choice, NOTHING)
    assert isinstance(meter, NoMeter)
    assert (meter.measures, meter.read(), meter.source) == (False, [], "none")
    assert meter.reason == ("as --meter says" if choice == "none" else "the golden device is no board")


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("pynq", "the board server reads hwmon, not pynq; start it with --meter pynq"),
        ("ina226", "there is no meter 'ina226'; name hwmon"),
        ("serial", "--meter serial: needs a place"),
        ("csv:", "--meter csv: needs a place"),
        ("csv:/nowhere/at/all.csv", "all.csv cannot be read .No such file"),
        ("serial:/nowhere/ttyUSB0", "the meter at /nowhere/ttyUSB0 cannot be opened"),
        ("serial:/dev/ttyUSB0@fast", "'fast' is no speed; write serial:/dev/ttyUSB0@115200"),
    ],
)
def test_meters_that_are_not_there(choice, sentence):
    with pytest.raises(MeterError, match=sentence):
        open_meter(choice, SERVED, remote=True)


# Lines


def test_columns_without_names_are_watts_or_volts_and_amperes():
    assert watts("1.5\n2.25\n") == [1.5, 2.25]
    assert watts("5.0,0.5\n5.1;0.5\n5.2\t0.5\n5.3 0.5\r\n") == [2.5, 2.55, 2.6, 2.65]
    found, _ = lines("5.0,0.5\n")
    assert found == [Reading("supply", 2500.0, 5.0, 0.5)]
    found, _ = lines("1.5\n")
    assert found == [Reading("supply", 1500.0, None, None)]


def test_names_say_what_columns_hold():
    assert watts("time,voltage,current,mood\n0,5,0.5,good\n1,5,0.6,bad\n") == [2.5, 3.0]
    assert watts("Voltage (mV);Current [mA]\n5000;500\n") == [2.5]
    assert watts("n\tbus_voltage_v\tcurrent_ma\n1\t12\t250\n") == [3.0]
    assert watts("t_s power_mw\n0 1500\n") == [1.5]
    assert watts("P,t\n3,99\n") == [3.0]
    assert watts("v,a,w\n5,0.5,2\n") == [2.5]  # the product, where there are both
    assert watts("v,w\n5,2\n") == [2.0]


@pytest.mark.parametrize("line", ["time,voltage", "a,b,c", "voltage,voltage,current", "voltage_a,current_v", "1,2"])
def test_what_is_no_line_of_names(line):
    assert parse_header(split_cells(line)) is None


def test_pieces_blank_lines_and_comments():
    assert watts("5.", "0,0", ".5\n\n# hello, 7\n", "6.0,0.5", "\n") == [2.5, 3.0]


def test_half_a_line_at_the_start_is_no_reading():
    assert watts("2,0.5\n5.0,0.5\n", joined=True) == [2.5]
    assert watts("voltage_mv,current_ma\n5000,500\n", joined=True) == [2.5]


def test_some_bad_lines_are_skipped_and_counted():
    found, meter = lines("5,0.5\nhm\n5,\n5,nan\n5,inf\n1,2,3\n5,0.6\n", "?\n" * (BAD_LINES - 1), "5,0.7\n")
    assert [reading.mw for reading in found] == pytest.approx([2500, 3000, 3500])
    assert meter.skipped == 5 + BAD_LINES - 1


@pytest.mark.parametrize("piece", ["time,5,6\n" * BAD_LINES, b"\xff\x80\x00;\xfe\n" * BAD_LINES])
def test_garbage_ends_it(piece):
    with pytest.raises(MeterError, match=r"csv:x gives no readings: 10 lines in a row are like '.*is the speed right"):
        lines("5,0.5\n", piece)


def test_an_endless_line_ends_it():
    with pytest.raises(MeterError, match="csv:x sends no line ends"):
        lines(*(300 * "\0" for _ in range(5)))


# A serial line


@pytest.fixture
def line():
    far, near = pty.openpty()
    tty.setraw(near)
    yield far, os.ttyname(near)
    for end in (far, near):
        if end is not None:
            os.close(end)


def arriving(meter, count):
    """Return readings once there are `count` of them."""
    found, deadline = [], time.monotonic() + 20
    while len(found) < count:
        assert time.monotonic() < deadline
        found += meter.read()
        time.sleep(0.005)
    return [round(reading.mw) for reading in found]


def test_a_serial_meter_is_listened_in_on(line):
    far, name = line
    meter = open_meter(f"serial:{name}@9600", None)
    assert meter.read() == []
    os.write(far, b"0.4\n5.0,0.4\r\n5.0,0")  # the first may be half of a line
    assert arriving(meter, 1) == [2000]
    os.write(far, b".6\r\n5.0,0.8\r\n")
    assert arriving(meter, 2) == [3000, 4000]
    meter.close()


def test_a_serial_meter_that_is_pulled_out():
    far, near = pty.openpty()
    tty.setraw(near)
    meter = open_meter(f"serial:{os.ttyname(near)}", None)
    os.close(near)
    os.close(far)
    with pytest.raises(MeterError, match=r"the meter at .* is gone .*plug it in again"):
        meter.read()
    meter.close()


def test_without_pyserial_the_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "serial", None)
    with pytest.raises(MeterError, match="needs the Python package pyserial: pip install"):
        open_meter("serial:/dev/ttyUSB0", None)


# A file that grows


def test_a_file_is_read_from_its_end_on_and_its_first_line_names_the_columns(tmp_path):
    file = tmp_path / "power.csv"
    file.write_text("time,voltage,current_ma\n0,5,400\n1,5,4")
    meter = open_meter(f"csv:{file}", None)
    assert (meter.source, meter.reason) == (f"csv:{file}", "as --meter says")
    assert meter.read() == []
    with file.open("a") as more:
        for text, expected in (("00\n", []), ("2,5,500\n3,5,60", [2500]), ("0\n4,5,700\n", [3000, 3500])):
            more.write(text)
            more.flush()
            assert [round(reading.mw) for reading in meter.read()] == expected
    file.write_text("")
    with pytest.raises(MeterError, match="became shorter; let its program append"):
        meter.read()
    meter.close()


def test_an_empty_file_names_its_columns_later(tmp_path):
    file = tmp_path / "power.csv"
    file.write_text("")
    meter = open_meter(f"csv:{file}", None)
    file.write_text("w,ignored\n1.25,9\n")
    assert [reading.mw for reading in meter.read()] == [1250]
    meter.close()


def test_a_named_pipe(tmp_path):
    pipe = tmp_path / "power"
    os.mkfifo(pipe)
    meter = open_meter(f"csv:{pipe}", None)
    assert meter.read() == []
    with pipe.open("wb", buffering=0) as far:
        assert meter.read() == []
        far.write(b"voltage,current\n5,0.5\n5,")
        assert [reading.mw for reading in meter.read()] == [2500]
        far.write(b"0.6\n")
        assert [reading.mw for reading in meter.read()] == [3000]
    assert meter.read() == []
    meter.close()
