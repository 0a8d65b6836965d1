"""The doctor: examines ranks, devices and links before a run, and says what is wrong and how to mend it.

examine.py      the examination on every rank, from joining to the finished file
facts.py        facts of a rank: device, versions, environment variables
topology.py     how a host's GPUs are linked, from amd-smi, rocm-smi or nvidia-smi
links.py        matrix product, collectives and pairs, measured
schedule.py     which ranks are measured together
watchdog.py     names the ranks that do not answer
examination.py  all facts and figures, as they are written to doctor.json
findings.py     what is wrong and how to mend it: pure functions, most of them in device_findings.py and
                link_findings.py; phrases.py words them
text.py         an examination and its findings in a terminal
"""
