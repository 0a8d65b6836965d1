from __future__ import annotations

from pathlib import Path

from workloads.run_folder.power_log import PowerLog, PowerSample, read_power


def test_samples_from_before_the_first_query_are_held_until_its_time_is_known(tmp_path: Path) -> None:
    log = PowerLog(tmp_path, "performance")
    log.take(0, [PowerSample(100.0 + i, energy_j=float(i)) for i in range(50)], None)
    assert not (tmp_path / "power.jsonl").exists()
    log.take(0, [PowerSample(150.0, energy_j=50.0)], 149.5)
    samples = read_power(tmp_path, "performance")[0]
    assert [(s.at_s, s.energy_j) for s in samples[-2:]] == [(-0.5, 49.0), (0.5, 50.0)]
    assert len(samples) == 21
    assert read_power(tmp_path, "accuracy") == {}
    with (tmp_path / "power.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"mode": "perf')  # cut off by a crash
    assert len(read_power(tmp_path, "performance")[0]) == 21
