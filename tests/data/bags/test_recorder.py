import subprocess
import sys
import threading

import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.bags.recorder import BagRecorder

START = 1_700_000_000_000_000_123
STRING = "std_msgs/msg/String"


def copy(source, target):
    with BagReader(source) as reader:
        for message in reader.messages():
            target.write(message.topic, message.type, message.stamp, message.raw)


def content(path):
    with BagReader(path) as reader:
        return [(m.topic, m.type, m.stamp, m.raw) for m in reader.messages()]


def test_a_recording_equals_what_came(drive, tmp_path):
    source = drive()
    with BagRecorder(tmp_path / "copy") as recorder:
        copy(source, recorder)
        assert not (tmp_path / "copy").exists(), "the bag appears when it is complete"
    assert content(tmp_path / "copy") == content(source)
    with BagReader(tmp_path / "copy") as reader:
        assert reader.topics["/tf_static"].latched
        assert not reader.topics["/count"].latched


def test_own_messages_carry_their_definition(tmp_path):
    # A Tensor: dtype "uint8", shape [2], data [7, 9].
    raw = b"\x00\x01\x00\x00" + b"\x06\x00\x00\x00uint8\x00\x00\x00" + b"\x01\x00\x00\x00\x02\x00\x00\x00"
    raw += b"\x02\x00\x00\x00\x07\x09"
    with BagRecorder(tmp_path / "bag") as recorder:
        recorder.write("/tensor", "sparseoccvla_msgs/msg/Tensor", START, raw, latched=True)
    with BagReader(tmp_path / "bag") as reader:
        assert reader.topics["/tensor"].latched
        (message,) = reader.messages()
        tensor = reader.decode(message.raw, message.type)
    assert (tensor.dtype, list(tensor.shape), list(tensor.data)) == ("uint8", [2], [7, 9])


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_keeps_what_was_recorded(drive, tmp_path, interruption):
    source = drive()

    def record():
        with BagRecorder(tmp_path / "copy") as recorder:
            copy(source, recorder)
            raise interruption

    with pytest.raises(interruption):
        record()
    assert content(tmp_path / "copy") == content(source)


def test_the_end_of_the_interpreter_closes_an_open_recording(drive, tmp_path):
    code = (
        "import sys\n"
        "from sparseoccvla_ros.data.bags.reader import BagReader\n"
        "from sparseoccvla_ros.data.bags.recorder import BagRecorder\n"
        "recorder = BagRecorder(sys.argv[2])\n"
        "for m in BagReader(sys.argv[1]).messages():\n"
        "    recorder.write(m.topic, m.type, m.stamp, m.raw)\n"
        "sys.exit(3)\n"
    )
    source = drive()
    done = subprocess.run([sys.executable, "-c", code, source, tmp_path / "copy"], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert content(tmp_path / "copy") == content(source)


def test_closing_twice_and_writing_after(drive, tmp_path):
    recorder = BagRecorder(tmp_path / "copy")
    copy(drive(), recorder)
    assert recorder.close()
    assert recorder.close()
    with pytest.raises(InvalidInput, match="closed"):
        recorder.write("/count", STRING, START, b"\x00\x01\x00\x00\x01\x00\x00\x00\x00")


def test_an_empty_recording_leaves_nothing(tmp_path):
    recorder = BagRecorder(tmp_path / "copy")
    assert not recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_several_threads_lose_nothing(tmp_path):
    raw = b"\x00\x01\x00\x00\x01\x00\x00\x00\x00"
    with BagRecorder(tmp_path / "copy") as recorder:

        def write(number):
            for k in range(200):
                recorder.write(f"/t{number}", STRING, START + k, raw)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with BagReader(tmp_path / "copy") as reader:
        assert {t.count for t in reader.topics.values()} == {200}
        assert len(list(reader.messages())) == 800


def test_bad_messages_are_refused_and_the_recording_goes_on(drive, tmp_path):
    with BagRecorder(tmp_path / "copy") as recorder:
        for topic, kind, stamp, raw in [
            ("/a", STRING, START, b""),
            ("/a", STRING, START, b"\x07\x01\x00\x00"),
            ("/a", "no_msgs/msg/Nothing", START, b"\x00\x01\x00\x00"),
            ("a", STRING, START, b"\x00\x01\x00\x00\x01\x00\x00\x00\x00"),
            ("/a", STRING, -1, b"\x00\x01\x00\x00\x01\x00\x00\x00\x00"),
        ]:
            with pytest.raises(InvalidInput):
                recorder.write(topic, kind, stamp, raw)
        copy(drive(), recorder)
        with pytest.raises(InvalidInput, match="holds"):
            recorder.write("/count", "std_msgs/msg/Int32", START, b"\x00\x01\x00\x00\x01\x00\x00\x00")
    assert len(content(tmp_path / "copy")) == 23


def test_an_existing_bag_stays_unless_forced(drive, tmp_path):
    source = drive()
    with pytest.raises(InvalidInput, match="exists"):
        BagRecorder(source)
    with BagRecorder(source, force=True) as recorder:
        recorder.write("/only", STRING, START, b"\x00\x01\x00\x00\x01\x00\x00\x00\x00")
    assert [m[0] for m in content(source)] == ["/only"]
